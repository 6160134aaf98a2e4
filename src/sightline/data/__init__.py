"""Makes samples: reads published formats, writes them back, makes scenes and questions. Torch-free."""
