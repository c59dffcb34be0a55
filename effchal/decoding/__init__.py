"""From prompt ids to completions."""
