"""Whether a run fits the memory and the hours, before it starts."""
