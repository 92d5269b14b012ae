"""Training: data, objective, and one loop for all three parts of a model."""
