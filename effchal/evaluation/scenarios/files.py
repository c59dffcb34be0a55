"""Where the data of an entry lie in HELM's layout."""

from collections.abc import Sequence
from pathlib import Path

from effchal.evaluation.scenarios.types import MissingDataError

HELM_FOLDER = (
    "give scenario.path=<folder in HELM's layout>; effchal fetch and HELM (as "
    "<its --output-path>/scenarios) make one where there is a network"
)


def find_file(path: Path, entry: str, *parts: str) -> Path:
    """The file of an entry below scenario.path, where HELM itself looks for it.

    Raises:
        MissingDataError: it is not there.
    """
    file = path.joinpath(*parts)
    check_files(entry, [file])
    return file


def check_files(entry: str, files: Sequence[Path]) -> None:
    """Raises MissingDataError if some are not there; it names all of these."""
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        remedy = f"{HELM_FOLDER}; with scenario.path=null it is downloaded"
        raise MissingDataError(entry, f"no file {', '.join(absent)} (from {Path.cwd()})", remedy)
