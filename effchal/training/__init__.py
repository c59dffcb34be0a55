"""A training run: built, trained within the budget, saved."""
