"""Names of adapters; imports no torch."""

from effchal.config import ConfigError

BASE = ""  # in place of an adapter's name: the base model alone


class AdapterGone(ConfigError):
    """A row wants an adapter that was dropped."""
