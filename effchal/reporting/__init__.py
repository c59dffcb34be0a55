"""Runs side by side: found in their folders, compared in tables and on one page."""
