"""Forward passes of any causal language model, with the numbers of the model's own forward pass on each text alone."""
