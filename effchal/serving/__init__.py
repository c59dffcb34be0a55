"""The server: HELM's, OpenAI's and lm-eval's routes over one batched engine."""
