"""Objectives, stages, the loop, the feature cache, adapters and checkpoints."""
