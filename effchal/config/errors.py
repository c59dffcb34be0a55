"""What is wrong with a config, in one form."""

from typing import Any


class ConfigError(ValueError):
    """A config that parses but cannot be run. The message names the key to change."""


def require(ok: bool, key: str, value: Any, allowed: str) -> None:
    """Raise ConfigError naming key, value found and what is allowed."""
    if not ok:
        raise ConfigError(f"{key} must be {allowed}, got {value!r}")
