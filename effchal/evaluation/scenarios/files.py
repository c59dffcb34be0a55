"""Where the data of an entry lie in HELM's layout."""

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
