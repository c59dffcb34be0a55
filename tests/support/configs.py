"""Composed configs, for tests of what is done with one: the same words are composed once."""

import copy
from functools import cache

from effchal.cli import compose

OF_FILES = ("bundle=", "resume_from=", "base_model=", "data=")  # composing looks at these


def compose_config(overrides):
    """As that of `effchal.cli.compose`, a copy of one's own."""
    if any(word.startswith(OF_FILES) for word in overrides):
        return compose.compose_config(list(overrides))
    return copy.deepcopy(_composed(tuple(overrides)))


@cache
def _composed(overrides):
    return compose.compose_config(list(overrides))
