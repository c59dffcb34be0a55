"""Scoring: here, by our own code, or by HELM itself."""
