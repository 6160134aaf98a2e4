"""Serving: an engine that answers many at once, an OpenAI-compatible API before it, and a page to look at."""
