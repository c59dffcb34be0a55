"""Composed configs, for tests of what is done with one: the same words are composed once."""

import copy
from functools import cache

from effchal import cli

OF_FILES = ("bundle=", "resume_from=", "base_model=", "data=")  # composing looks at these


def compose_config(overrides):
    """As that of `effchal.cli`, a copy of one's own."""
    if any(word.startswith(OF_FILES) for word in overrides):
        return cli.compose_config(list(overrides))
    return copy.deepcopy(_composed(tuple(overrides)))


@cache
def _composed(overrides):
    return cli.compose_config(list(overrides))
