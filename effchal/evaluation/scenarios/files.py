"""Data files in HELM's layout: find them, read them, and name file, line and field of what is wrong."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effchal.evaluation.scenarios.types import ScenarioError

HELM_FOLDER = (
    "give scenario.path=<folder in HELM's layout>; HELM makes one as <its --output-path>/scenarios "
    "when it has a network"
)


def find_file(path: Path, entry: str, *parts: str) -> Path:
    """The file of an entry below scenario.path, where HELM itself would look for it.

    Raises:
        ScenarioError: it is not there.
    """
    file = path.joinpath(*parts)
    if not file.is_file():
        raise ScenarioError(
            f"{entry}: no file {file} (from {Path.cwd()}): {HELM_FOLDER}; with scenario.path=null it is downloaded"
        )
    return file


def read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Rows with their place for messages."""
    # Like HELM: without newline="", a line end inside a quoted field is "\n", whatever it is in the file.
    with path.open(encoding="utf-8") as lines:
        reader = csv.reader(lines)
        try:
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
        except UnicodeDecodeError as error:
            raise ScenarioError(f"{path}, after line {reader.line_num}: not UTF-8") from error
        except csv.Error as error:
            raise ScenarioError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects, one a line, with their place for messages."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            if not line.strip():
                raise ScenarioError(f"{place}: empty line; remove it")
            row = _parse_json(line.rstrip(b"\r\n"), place)
            if not isinstance(row, dict):
                raise ScenarioError(
                    f"{place}: expected an object with named fields, found {shown(row)}"
                )
            yield place, row


def read_json_object(path: Path) -> dict[str, Any]:
    value = _parse_json(path.read_bytes(), str(path))
    if not isinstance(value, dict):
        raise ScenarioError(f"{path}: expected an object with named fields, found {shown(value)}")
    return value


def _parse_json(content: bytes, place: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{place}, byte {error.start + 1}: not UTF-8") from error
    except json.JSONDecodeError as error:
        where = (
            f"line {error.lineno}, column {error.colno}"
            if error.lineno > 1
            else f"column {error.colno}"
        )
        raise ScenarioError(f"{place}, {where}: not JSON ({error.msg})") from error
    except RecursionError as error:
        raise ScenarioError(f"{place}: brackets nested too deeply") from error


def text_field(row: dict[str, Any], name: str, place: str, may_be_empty: bool = False) -> str:
    return check_text(row.get(name), f"{place}, field {name!r}", may_be_empty)


def choice_field(row: dict[str, Any], name: str, place: str, allowed: tuple[str, ...]) -> str:
    """A text field that is one of a closed list."""
    value = text_field(row, name, place)
    if value not in allowed:
        raise ScenarioError(
            f"{place}, field {name!r}: expected one of {', '.join(allowed)}, found {shown(value)}"
        )
    return value


def check_text(value: Any, place: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ScenarioError(f"{place}: expected text, found {shown(value)}")
    try:
        value.encode("utf-8")  # JSON can spell half a surrogate pair, which is no character
    except UnicodeEncodeError as error:
        raise ScenarioError(
            f"{place}: half a character ({error.reason}) in {shown(value)}"
        ) from error
    return value


def check_texts(value: Any, place: str) -> list[str]:
    """A list of texts, not empty."""
    if not isinstance(value, list) or not value:
        raise ScenarioError(f"{place}: expected a list of texts, found {shown(value)}")
    return [
        check_text(text, f"{place}, item {number}") for number, text in enumerate(value, start=1)
    ]


def shown(value: Any) -> str:
    """A value for a message, cut to one line."""
    text = "nothing" if value is None else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 100 else f"{text[:97]}..."
