"""Data files in HELM's layout: find them, and read their rows with places for messages."""

import csv
from collections.abc import Iterator
from pathlib import Path

from effchal.evaluation.scenarios.types import ScenarioError

HELM_FOLDER = (
    "give scenario.path=<folder in HELM's layout>; HELM makes one as <its --output-path>/scenarios "
    "when it has a network"
)


def find_file(path: Path, entry: str, *parts: str) -> Path:
    """The file of an entry below scenario.path, where HELM itself looks for it.

    Raises:
        ScenarioError: it is not there.
    """
    file = path.joinpath(*parts)
    if not file.is_file():
        raise ScenarioError(
            f"{entry}: no file {file} (from {Path.cwd()}): {HELM_FOLDER}; "
            "with scenario.path=null it is downloaded"
        )
    return file


def read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Rows with their place for messages.

    Raises:
        ScenarioError: a row that is not UTF-8 or not CSV.
    """
    # Like HELM: without newline="", a line end inside a quoted field is always "\n".
    with path.open(encoding="utf-8") as lines:
        reader = csv.reader(lines)
        try:
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
        except UnicodeDecodeError as error:
            raise ScenarioError(f"{path}, after line {reader.line_num}: not UTF-8") from error
        except csv.Error as error:
            raise ScenarioError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
