"""Parts of a model, the processor that turns samples into batches, and the model directory."""
