"""Faults of one row: answers without text, answers that loop; and what makes two rows the same."""

from dataclasses import dataclass

from effchal.config import CleanConfig
from effchal.mixing.sources import Example


@dataclass(frozen=True)
class Fault:
    rule: str  # a key of data_mix.clean
    detail: str  # for people: what was found, and where


def fault_of(example: Example, cfg: CleanConfig) -> Fault | None:
    """The first fault of a row by the rules of the config that are not `keep`."""
    raise NotImplementedError


def text_key(example: Example) -> bytes:
    """16 bytes, the same for the same turns: case, white space and Unicode forms aside."""
    raise NotImplementedError
