"""Kinds of region codec."""
