"""The schema of conformance: which rules a server is checked for."""

import re
from dataclasses import dataclass, field

from effchal.config.errors import FINITE_ABOVE_0, require, require_keys


@dataclass
class ConformanceConfig:
    """The server that `effchal conformance` checks, and the checks."""

    # Address of the server, e.g. http://127.0.0.1:8080.
    url: str | None = None
    # Names of checks, * for any characters in them. [] = all.
    only: list[str] = field(default_factory=list)
    # [s] How long to wait for an answer.
    timeout_s: float = 300.0
    # Show the names of all checks and their rules, and ask no server.
    show_checks: bool = False

    def __post_init__(self) -> None:
        is_url = self.url is None or re.fullmatch(r"https?://[^/\s]+\S*", self.url) is not None
        require(is_url, "conformance.url", self.url, "an address like http://127.0.0.1:8080")
        require_keys(self, "conformance", FINITE_ABOVE_0, "timeout_s")
