"""effchal: one base model, one GPU, one day, from a Hydra config to a HELM-scored submission."""

__version__ = "0.1.0"
