"""Overrides of the command line: how Hydra reads them, and how a path is quoted for it."""

import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

from effchal.config import ConfigError


def parse_override(word: str) -> Any:
    return OverridesParser.create().parse_override(word)


def as_read(word: str) -> tuple[bool, Any]:
    """Whether Hydra can read an override, and its value, which is None for a sweep."""
    try:
        override = parse_override(word)
        return True, None if override.is_sweep_override() else override.value()
    except (HydraException, ValueError):
        return False, None


def check_readable(word: str, is_sweep: bool, shows: str = "") -> None:
    """Raise ConfigError, with how to type it, if Hydra cannot read the word.

    Args:
        shows: a flag that shows something in place of a run or a sweep; "" without one.
    """
    key, _, value = word.partition("=")
    as_text = shlex.quote(f"{key}={quote(value)}")
    if "'" not in value and '"' not in value:
        as_text = f"'{key}=\"{value}\"'"
    try:
        wants_sweep = parse_override(word).is_sweep_override()
    except (HydraException, ValueError) as error:  # ValueError: a number of thousands of digits
        raise ConfigError(f"cannot read {word}; if it is a text, type {as_text}") from error
    if wants_sweep and not is_sweep:
        if shows:
            raise ConfigError(
                f"{word} has several values, and {shows} shows no sweep; type one of them"
            )
        raise ConfigError(
            f"{word} has several values, which is a sweep and needs -m; type a list as "
            f"'{key}=[{value}]', a text as {as_text}"
        )


def quote(value: str) -> str:
    """A text as the value of an override: spaces, commas, quotes and `=` lose their meaning."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def full_key(word: str) -> str:
    """The override with data_mix.engine for data.engine: `data` is a value, and has no keys."""
    key, equals, value = word.partition("=")
    return f"data_mix.engine={value}" if equals and key == "data.engine" else word


def key_of(word: str) -> str:
    """`bundle` of `bundle=<folder>`; the whole word where there is no `=`."""
    return word.partition("=")[0].lstrip("+")


def typed_paths(word: str) -> list[str]:
    """The paths of `key=<path>` or `key=[<path>,<path>]`, as they are typed or quoted for Hydra.

    A path that is there is taken as it is typed, whatever characters it has.
    """
    value = word.partition("=")[2]
    if is_there(value):
        return [value]
    readable, read = as_read(word)
    if value.startswith("[") and value.endswith("]"):
        parts = joined(value[1:-1].split(","))
        is_quoted = isinstance(read, list) and not all(map(is_there, parts))
        return [str(each) for each in read] if is_quoted else parts
    return [read] if readable and isinstance(read, str) else [value]


def is_there(path: str) -> bool:
    return Path(path).expanduser().exists()


def joined(parts: list[str]) -> list[str]:
    """The paths of a list that was split at its commas, of which some may be a path's own."""
    paths = []
    while parts:
        lengths = range(1, len(parts) + 1)
        found = next((n for n in lengths if is_there(",".join(parts[:n]).strip())), 1)
        paths.append(",".join(parts[:found]).strip())
        parts = parts[found:]
    return [path for path in paths if path]


def is_first_of_sweep() -> bool:
    """Whether the command that runs is the first job of several."""
    if not HydraConfig.initialized():  # called from Python
        return False
    job: Any = HydraConfig.get()
    return job.mode == RunMode.MULTIRUN and job.job.num == 0
