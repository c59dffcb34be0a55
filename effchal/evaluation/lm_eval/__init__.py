"""lm-eval's tasks: lm-eval asks and scores in its own environment, our process answers."""
