"""Sections of check_gpu.py: what the package does on a card, proved and measured."""
