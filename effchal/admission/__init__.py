"""The admission check: the fast way, where it gives what the model's own code gives."""
