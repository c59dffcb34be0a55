"""The schema of export: into which form a bundle goes, and where."""

import re
from dataclasses import dataclass
from os.path import expanduser

from effchal.config.choices import ExportTo, GgufType, WeightType
from effchal.config.errors import ConfigError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass
class ExportConfig:
    """A bundle for other programs. The keys may be typed without their group: to=merged."""

    # Form to write.
    to: ExportTo = ExportTo.merged
    # Folder to write, which must not hold anything. null = a folder of the form's name in the
    # command's own output folder.
    folder: str | None = None
    # Type of merged weights. null = that of the base model's files.
    weights: WeightType | None = None
    # Type of the weights in a GGUF file.
    gguf_type: GgufType = GgufType.f16
    # Repo id of the base model on the hub, where the bundle was trained from a local folder. It
    # stands in the card, the adapter and the commands.
    base_repo: str | None = None
    # Repo id on the hub to upload the folder to. null = nothing is uploaded.
    push_to_hub: str | None = None
    # Whether a repo that the upload makes is private.
    private: bool = True

    def __post_init__(self) -> None:
        self.folder = self.folder and expanduser(self.folder)
        for key in ("base_repo", "push_to_hub"):
            value = getattr(self, key)
            if value is not None and not HUB_ID.fullmatch(value):
                raise ConfigError(f"export.{key} must be <owner>/<name> of the hub, got {value}")
