"""HELM itself, run on a model of ours: python -m effchal.helm."""
