"""The networks of the paper's measures, and what they are given; each loads the tensors of a published file."""
