"""The schema of submit and reproduce: what is handed in, and what is done again."""

from dataclasses import dataclass, field, fields
from os.path import expanduser
from typing import Any


@dataclass
class SubmitConfig:
    """The folder to hand in. The keys may be typed without their group: include_data=true."""

    # Folder to write, which must not hold anything. null = `submission` in the command's own output
    # folder.
    folder: str | None = None
    # Names of conformance checks that the server may break, * for any characters. README.md of the
    # folder names those that it does break.
    allow_broken: list[str] = field(default_factory=list)
    # Copy the data sources that are files of this machine into the folder.
    include_data: bool = False

    def __post_init__(self) -> None:
        self.folder = self.folder and expanduser(self.folder)


@dataclass
class ReproduceConfig:
    """A handed-in folder that is checked. The keys may be typed without their group."""

    # The folder, as `effchal submit` wrote it. It may be typed without its key.
    folder: str | None = None
    # Train again. false = check the adapter of the folder alone.
    retrain: bool = True

    def __post_init__(self) -> None:
        self.folder = self.folder and expanduser(self.folder)


def submit_override(word: str) -> str:
    """`include_data=true`, typed to `effchal submit`, as the override that it stands for."""
    return _grouped("submit", SubmitConfig, word)


def reproduce_override(word: str) -> str:
    """`retrain=false` or a folder, typed to `effchal reproduce`, as what it stands for."""
    if "=" not in word and not word.startswith("~"):
        word = f"folder={word}"
    return _grouped("reproduce", ReproduceConfig, word)


def _grouped(group: str, schema: type[Any], word: str) -> str:
    key, equals, _ = word.partition("=")
    is_option = equals and key in {each.name for each in fields(schema)}
    return f"{group}.{word}" if is_option else word
