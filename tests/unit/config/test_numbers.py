"""Numbers of the command line: each that cannot be computed with is refused in one line."""

import math
import re

import pytest
from omegaconf import OmegaConf

from effchal.cli import compose_config
from effchal.config import ConfigError, to_config, to_plain
from effchal.config.describe import describe

NUMBERS = [key.name for key in describe() if re.search(r"\b(int|float)\b", key.type)]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**30, -(10**30)])
def test_no_number_is_endless_or_too_large_to_compute_with(value):
    whole = to_plain(compose_config(["rules=neurips_2023"]))
    names = [name.replace("<name>", "lima") for name in NUMBERS if "layers" not in name]
    assert len(names) > 50
    for name in names:
        group = name.partition(".")[0]  # without the others, reading it takes a third of the time
        tree = OmegaConf.create({"model": whole["model"], group: whole[group]})  # of no types
        OmegaConf.update(tree, name, value)
        if name == "train.max_grad_norm" and value > 0:
            to_config(tree)  # it clips nothing
        else:
            with pytest.raises(ConfigError, match=re.escape(name)) as caught:
                to_config(tree)
            assert "\n" not in str(caught.value)


def test_a_number_of_thousands_of_digits_is_one_line():
    with pytest.raises(ConfigError, match=r"^train\.epochs must be at most .*5001 digits$"):
        to_config(OmegaConf.create({"train": {"epochs": 10**5000}, "model": {"name": "x"}}))
