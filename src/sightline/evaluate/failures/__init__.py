"""What goes wrong in the answers of a model, one module per failure: each is measured from answers and annotations alone."""
