"""Sweeps of `effchal train -m`: what is to do, where it runs, and one budget for all of it."""
