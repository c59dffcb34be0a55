"""The schema of submit and reproduce: what is handed in, and what is done again."""

from dataclasses import dataclass, field
from os.path import expanduser


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
