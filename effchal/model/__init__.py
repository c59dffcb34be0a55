"""Base model, tokenizer, adapter and device: what is loaded, and how."""
