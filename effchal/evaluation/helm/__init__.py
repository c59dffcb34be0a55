"""HELM itself, run on a model of ours: effchal helm."""
