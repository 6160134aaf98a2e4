"""Published connectors beside the perceptron, one module per idea and one for its weights."""
