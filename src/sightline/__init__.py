"""Sightline: vision-language models built end to end from one recipe file."""

__version__ = "0.1.0"
