"""A run as a folder to hand in, and the check of such a folder from scratch."""
