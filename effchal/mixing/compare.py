"""Two data mixes side by side: what their mix.json say differently."""

from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.mixing.dropped import short
from effchal.mixing.report_page import table
from effchal.runs import read_record

ABSENT = "absent"


def read_mix(place: str) -> dict[str, Any]:
    """mix.json of a folder.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = Path(place).expanduser()
    path = path if path.is_file() else path / "mix.json"
    if not path.is_file():
        raise ConfigError(f"{place} has no mix.json; effchal data and effchal train leave one")
    return read_record(path)


def compare(a: str, b: str) -> tuple[bool, str]:
    """Whether two folders hold the same mix, by its digest, and what differs, as text.

    Raises:
        ConfigError: one of them holds none.
    """
    mixes = read_mix(a), read_mix(b)
    digests = [mix.get("sha256") for mix in mixes]
    same = digests[0] == digests[1] is not None
    verdict = "the same data in the same order" if same else "not the same data"
    if None in digests:
        verdict = "not known to be the same data: a mix.json has no sha256"
    rows = differences(*mixes)
    lines = [f"A: {a}", f"B: {b}", verdict, *(["", table(("", "A", "B"), rows)] if rows else [])]
    return same, "\n".join(lines)


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The keys whose values differ, each with both; a source that one lacks is one line."""
    ours, theirs = ({each["source"]: each for each in mix["sources"]} for mix in (a, b))
    rows = []
    for name in ours.keys() ^ theirs.keys():
        rows.append((f"sources.{name}", _size(ours.get(name)), _size(theirs.get(name))))
    rows.sort()
    both = ours.keys() & theirs.keys()
    left = _flat(a | {"sources": {name: ours[name] for name in ours if name in both}})
    right = _flat(b | {"sources": {name: theirs[name] for name in ours if name in both}})
    for key in left | right:  # in A's order
        if left.get(key, ABSENT) != right.get(key, ABSENT):
            rows.append((key, left.get(key, ABSENT), right.get(key, ABSENT)))
    return rows


def _size(source: dict[str, Any] | None) -> str:
    return ABSENT if source is None else f"{source['examples']:,} examples"


def _flat(value: Any, key: str = "") -> dict[str, str]:
    """Values as text by dotted key; without the histogram and the texts of what was dropped."""
    if isinstance(value, dict):
        parts = [_flat(each, f"{key}.{name}" if key else name) for name, each in value.items()]
        return {name: text for part in parts for name, text in part.items()}
    if isinstance(value, list) and key.rpartition(".")[2] in ("lengths", "examples"):
        return {}
    if isinstance(value, int | float):
        return {key: f"{value:,}" if isinstance(value, int) else f"{value:.4g}"}
    return {key: "not measured" if value is None else short(str(value))}
