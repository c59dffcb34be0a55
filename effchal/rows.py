"""Rows of data files that know their place: an error names file, line, field and value found."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.config import ConfigError

_ENDS_IN_LINE = ", and the file ends inside it: was it written to the end?"


@dataclass(frozen=True)
class Row:
    """An object with named fields, from a data file."""

    fields: dict[str, Any]
    place: str  # for messages: "<file>, line 3"
    error: type[ConfigError]  # what the checks raise

    @classmethod
    def of(cls, value: Any, place: str, error: type[ConfigError]) -> "Row":
        """The value as a row. Raises `error` if it is not a dict."""
        if not isinstance(value, dict):
            raise error(f"{place}: expected an object with named fields, found {shown(value)}")
        return cls(value, place, error)

    def wrong(self, name: str, expected: str) -> ConfigError:
        """The error for a field that is not as expected; the caller raises it."""
        found = shown(self.fields.get(name))
        return self.error(f"{self.place}, field {name!r}: expected {expected}, found {found}")

    def text(self, name: str, default: str | None = None, may_be_empty: bool = False) -> str:
        value = self.fields.get(name, default)
        return check_text(value, f"{self.place}, field {name!r}", self.error, may_be_empty)

    def texts(self, name: str, may_be_empty: bool = False) -> list[str]:
        """A list of at least one text, none of them empty; `may_be_empty` lifts both."""
        values = self.fields.get(name)
        if not isinstance(values, list) or not (values or may_be_empty):
            raise self.wrong(name, "a list of texts")
        places = (f"{self.place}, field {name!r}, item {i}" for i in range(1, len(values) + 1))
        return [
            check_text(value, place, self.error, may_be_empty)
            for value, place in zip(values, places, strict=True)
        ]

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """A text that is one of a closed list."""
        value = self.text(name)
        if value not in allowed:
            raise self.wrong(name, f"one of {', '.join(allowed)}")
        return value

    def nested(self, name: str) -> "Row":
        """A field that is itself an object with named fields."""
        return Row.of(self.fields.get(name), f"{self.place}, field {name!r}", self.error)


def read_jsonl(path: Path, error: type[ConfigError]) -> Iterator[Row]:
    """The objects of a file with one on each line.

    Raises:
        error: a line that is empty, not UTF-8, not JSON, or not an object.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            if not line.strip():
                raise error(f"{place}: empty line; remove it")
            ends_in_line = "" if line.endswith(b"\n") else _ENDS_IN_LINE
            # Without its line end, or an error at the end of the line would stand in the next one.
            value = parse_json(line.rstrip(b"\r\n"), place, error, ends_in_line)
            yield Row.of(value, place, error)


def parse_json(content: bytes, place: str, error: type[ConfigError], hint: str = "") -> Any:
    """The value of a file, or of one of its lines.

    Args:
        hint: ends the message where the content is not JSON.

    Raises:
        error: not UTF-8, not JSON, or nested deeper than the parser can follow.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as reason:
        raise error(f"{place}, byte {reason.start + 1}: not UTF-8") from reason
    except json.JSONDecodeError as reason:
        line = f"line {reason.lineno}, " if reason.lineno > 1 else ""
        where = f"{place}, {line}column {reason.colno}"
        raise error(f"{where}: not JSON ({reason.msg}){hint}") from reason
    except RecursionError as reason:
        raise error(f"{place}: brackets nested too deeply") from reason


def check_text(value: Any, place: str, error: type[ConfigError], may_be_empty: bool = False) -> str:
    """The value. Raises `error` if it is no text, only white space, or has half a character."""
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise error(f"{place}: expected text, found {shown(value)}")
    try:
        value.encode("utf-8")  # JSON can spell half a surrogate pair, which is no character
    except UnicodeEncodeError as reason:
        raise error(f"{place}: half a character ({reason.reason}) in {shown(value)}") from reason
    return value


def shown(value: Any) -> str:
    """A value for a message, cut to 100 characters."""
    text = "nothing" if value is None else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 100 else f"{text[:97]}..."
