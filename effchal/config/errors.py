"""What is wrong with a config, in one form."""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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


def require(ok: bool, key: str, value: Any, allowed: str) -> None:
    """Raise ConfigError with the key, the value found and what is allowed, unless `ok`."""
    if not ok:
        raise ConfigError(f"{key} must be {allowed}, got {shown(value)}")


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 40, 10
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 200


def shown(value: Any) -> str:
    """A value for a message, in one line of bounded length however large or deep it is."""
    return _SHORT.repr(value)


def require_keys(config: Any, group: str, bound: Bound, *keys: str) -> None:
    """Raise ConfigError unless the bound holds for each of these keys; None always passes."""
    for key in keys:
        value = getattr(config, key)
        require(value is None or bound.holds(value), f"{group}.{key}", value, bound.text)
