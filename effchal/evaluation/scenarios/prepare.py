"""All data of a list of entries in one folder, for a machine without a network."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effchal.evaluation.scenarios.entries import parse_entry
from effchal.evaluation.scenarios.hub import Download, downloads, useful_downloads
from effchal.evaluation.scenarios.run_arguments import expanded
from effchal.evaluation.scenarios.types import ScenarioError


@dataclass(frozen=True)
class Prepared:
    """One source, and what became of it."""

    download: Download
    state: str  # "there", "fetched" or "failed"
    size: int = 0  # bytes
    reason: str = ""

    @property
    def place(self) -> str:
        source = self.download.source
        return f"{source.repo} {source.config}".strip()


def needed_downloads(entries: list[str], folder: Path) -> list[Download]:
    """What the entries need, each source once.

    Raises:
        ScenarioError: an unknown entry or argument.
    """
    found: dict[Path, Download] = {}
    for entry in (each for typed in entries for each in expanded(typed)):
        name, args = parse_entry(entry)
        needed = downloads(entry, name, args, folder)
        for download in [*needed, *useful_downloads(entry, name, folder)]:
            found.setdefault(download.folder / download.record, download)
    return list(found.values())


def prepare(found: list[Download]) -> Iterator[Prepared]:
    """Fetch what is not there. A source that fails costs only its own files."""
    for download in found:
        size = download.kept_bytes()
        if size is not None:
            yield Prepared(download, "there", size)
            continue
        try:
            download.keep()
        except ScenarioError as error:
            yield Prepared(download, "failed", reason=str(getattr(error, "what", error)))
        else:
            yield Prepared(download, "fetched", download.kept_bytes() or 0)
