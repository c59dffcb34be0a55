"""Numbers of the command line: each that cannot be computed with is refused in one line."""

import math
import re

import pytest
from omegaconf import OmegaConf
from support.configs import compose_config

from effchal.config import ConfigError, to_config, to_plain
from effchal.config.describe import describe
from effchal.config.errors import MAY_BE_INFINITE, check_numbers

NUMBERS = {
    key.name.replace("<name>", "lima"): key.type
    for key in describe()
    if re.search(r"\b(int|float)\b", key.type) and "layers" not in key.name
}
BAD = [math.inf, -math.inf, math.nan, 10**30, -(10**30)]


def part_of(owner, name):
    return owner[name] if isinstance(owner, dict) else getattr(owner, name)


@pytest.mark.parametrize("value", BAD)
def test_no_number_is_endless_or_too_large_to_compute_with(value):
    cfg = compose_config(["rules=neurips_2023"])
    assert len(NUMBERS) > 50
    for name in NUMBERS.keys() - MAY_BE_INFINITE:
        *path, last = name.split(".")
        owner = cfg
        for part in path:
            owner = part_of(owner, part)
        before = getattr(owner, last)
        setattr(owner, last, value)
        with pytest.raises(ConfigError, match=rf"^{re.escape(name)} must be [^\n]*$"):
            check_numbers(cfg)
        setattr(owner, last, before)


def test_reading_a_config_checks_them_whatever_their_type():
    """Each name with one of the values, and the first of each type with all of them."""
    whole = to_plain(compose_config(["rules=neurips_2023"]))
    first = {kind: name for name, kind in reversed(NUMBERS.items())}
    pairs = {(name, BAD[place % len(BAD)]) for place, name in enumerate(NUMBERS)}
    pairs |= {(name, value) for name in [*first.values(), *MAY_BE_INFINITE] for value in BAD}
    for name, value in pairs:
        group = name.partition(".")[0]  # without the others, reading it takes a third of the time
        tree = OmegaConf.create({"model": whole["model"], group: whole[group]})  # of no types
        OmegaConf.update(tree, name, value)
        if name in MAY_BE_INFINITE and value > 0:
            to_config(tree)
        else:
            with pytest.raises(ConfigError, match=re.escape(name)) as caught:
                to_config(tree)
            assert "\n" not in str(caught.value)


def test_a_number_of_thousands_of_digits_is_one_line():
    with pytest.raises(ConfigError, match=r"^train\.epochs must be at most .*5001 digits$"):
        to_config(OmegaConf.create({"train": {"epochs": 10**5000}, "model": {"name": "x"}}))
