"""Kinds of benchmark that read published files."""
