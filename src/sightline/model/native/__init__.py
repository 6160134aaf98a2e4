"""Published checkpoints, read and written: one format per model type, each with rules that name its tensors in both directions. Nothing of a checkpoint is ever run."""
