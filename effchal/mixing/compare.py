"""Two data mixes side by side: what their mix.json say differently."""

import re
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.mixing.report_page import aligned_table
from effchal.runs import flat, read_record

ABSENT = "absent"


def compare(a: str, b: str) -> tuple[bool, str]:
    """Whether two folders hold the same mix, by its digest; and what differs, as text.

    Raises:
        ConfigError: one of them holds none.
    """
    mixes = read_mix(a), read_mix(b)
    digests = [mix.get("sha256") for mix in mixes]
    same = digests[0] == digests[1] is not None
    verdict = "the same data in the same order" if same else "not the same data"
    if None in digests:
        verdict = "not known whether the data is the same: a mix.json has no sha256"
    rows = differences(*mixes)
    lines = [f"A: {a}", f"B: {b}", verdict]
    if rows:
        lines += ["", aligned_table(("key", "A", "B"), rows)]
    return same, "\n".join(lines)


def read_mix(place: str) -> dict[str, Any]:
    """mix.json of a folder.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = Path(place).expanduser()
    path = path if path.is_file() else path / "mix.json"
    if not path.is_file():
        raise ConfigError(f"{place} has no mix.json; effchal data and effchal train leave one")
    mix = read_record(path)
    if not isinstance(mix.get("sources"), list):
        raise ConfigError(f"{path} is no report of a data mix")
    return mix


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The keys whose values differ, each with both; a source that one lacks is one of them."""
    ours, theirs = ({each["source"]: each for each in mix["sources"]} for mix in (a, b))
    rows = [
        (f"sources.{name}", _size(ours.get(name)), _size(theirs.get(name)))
        for name in ours | theirs
        if (name in ours) != (name in theirs)
    ]
    both = [name for name in ours if name in theirs]
    left, right = (
        flat(mix | {"sources": {name: sources[name] for name in both}})
        for mix, sources in ((a, ours), (b, theirs))
    )
    for key in left | right:  # in A's order
        one, other = (found.get(key, ABSENT) for found in (left, right))
        is_detail = isinstance(one, list) and key.endswith((".lengths", ".examples"))
        if one != other and not is_detail:
            rows.append((key, _shown(one), _shown(other)))
    return rows


def _size(source: dict[str, Any] | None) -> str:
    return ABSENT if source is None else f"{source['examples']:,} examples"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):  # a sha256
        return f"{value[:12]}…"
    return value if isinstance(value, str) and value.isprintable() else repr(value)
