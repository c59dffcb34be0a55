"""From named sources to packed micro-batches."""
