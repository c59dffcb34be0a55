"""A rule, the check of it, and what the check found."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from effchal.conformance_checks.client import Exchange, Server


class Broken(Exception):
    """The server breaks the rule; the message says how."""


class CannotTell(Exception):
    """What the server answers says nothing about the rule; the message says why."""


class Status(Enum):
    kept = "pass"
    broken = "FAIL"
    untold = "cannot be told"


@dataclass(frozen=True)
class Check:
    """A rule of the protocol. Name and rule are the function's own name and docstring."""

    ask: Callable[[Server], None]  # raises Broken or CannotTell
    needs: tuple[Callable[[Server], None], ...] = ()  # if one is broken, this cannot be told

    @property
    def name(self) -> str:
        return self.ask.__name__

    @property
    def rule(self) -> str:
        return " ".join((inspect.getdoc(self.ask) or "").split())


@dataclass(frozen=True)
class Verdict:
    name: str
    rule: str
    status: Status
    reason: str  # "" of a rule that is kept
    seconds: float
    exchanges: list[Exchange]

    def to_dict(self) -> dict[str, Any]:
        status = self.status.name
        exchanges = [each.to_dict() for each in self.exchanges]
        kept = dict(vars(self), status=status, seconds=round(self.seconds, 3))
        return kept | {"exchanges": exchanges}


def require(ok: bool, how: str) -> None:
    """Raises Broken with what the server does, unless `ok`."""
    if not ok:
        raise Broken(how)
