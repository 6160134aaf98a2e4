"""Kinds for Sightline from another package."""
