"""The record of a run and its mirrors: metrics.jsonl, wandb, the terminal."""
