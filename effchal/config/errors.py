"""What is wrong with a config, in one form."""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

LARGEST_INT, LARGEST_SEED, LARGEST_FLOAT = 2**31 - 1, 2**63 - 1, 1e15
MAY_BE_INFINITE = ("train.max_grad_norm",)  # it clips nothing


class ConfigError(ValueError):
    """A config that parses but cannot be run. The message names the key to change."""


@dataclass(frozen=True)
class Bound:
    """A condition on one value, and how a message spells it."""

    text: str
    holds: Callable[[Any], bool]


AT_LEAST_0 = Bound("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Bound("at least 1", lambda value: value >= 1)
ABOVE_0 = Bound("above 0", lambda value: value > 0)
FINITE = Bound("at least 0 and finite", lambda value: 0 <= value < math.inf)
FINITE_ABOVE_0 = Bound("above 0 and finite", lambda value: 0 < value < math.inf)
SHARE = Bound("in [0, 1]", lambda value: 0 <= value <= 1)
SHARE_BELOW_1 = Bound("in [0, 1)", lambda value: 0 <= value < 1)


def check_numbers(config: Any, key: str = "") -> None:
    """Raise ConfigError for a number that is not finite, or too large to compute with."""
    if is_dataclass(config):
        parts: Any = ((field.name, getattr(config, field.name)) for field in fields(config))
    elif isinstance(config, (dict, list)):
        parts = config.items() if isinstance(config, dict) else enumerate(config)
    else:
        if isinstance(config, int):
            most = LARGEST_SEED if key.endswith("seed") else LARGEST_INT
            require(abs(config) <= most, key, config, f"at most {most}")
        elif isinstance(config, float) and key not in MAY_BE_INFINITE:
            require(abs(config) <= LARGEST_FLOAT, key, config, f"at most {LARGEST_FLOAT:g}")
        return
    for name, value in parts:
        check_numbers(value, f"{key}.{name}".lstrip("."))


def require(ok: bool, key: str, value: Any, allowed: str) -> None:
    """Raise ConfigError with the key, the value found and what is allowed, unless `ok`."""
    if not ok:
        raise ConfigError(f"{key} must be {allowed}, got {shown(value)}")


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 40, 10
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 200


def shown(value: Any) -> str:
    """A value for a message, in one line of bounded length however large or deep it is."""
    if isinstance(value, int) and abs(value) > LARGEST_SEED:  # Python spells 4,300 digits at most
        return f"a number of {math.floor(math.log10(abs(value))) + 1} digits"
    return _SHORT.repr(value)


def require_keys(config: Any, group: str, bound: Bound, *keys: str) -> None:
    """Raise ConfigError unless the bound holds for each of these keys; None always passes."""
    for key in keys:
        value = getattr(config, key)
        require(value is None or bound.holds(value), f"{group}.{key}", value, bound.text)
