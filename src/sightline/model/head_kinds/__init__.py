"""Kinds of head."""
