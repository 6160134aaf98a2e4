"""Answers, benchmarks, scores, controls and the report."""
