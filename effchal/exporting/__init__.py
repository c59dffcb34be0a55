"""A bundle in the forms of other programs: merged weights, a peft adapter, GGUF, vLLM."""
