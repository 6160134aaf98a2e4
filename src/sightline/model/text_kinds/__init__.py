"""Text sides beside the dual tower: transformers that compare, match and tell texts of pictures."""
