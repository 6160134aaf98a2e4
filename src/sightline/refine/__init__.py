"""Boxes to masks."""
