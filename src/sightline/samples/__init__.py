"""What one training sample is, the store samples live in, and what is asked and answered."""
