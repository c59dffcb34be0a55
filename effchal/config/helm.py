"""The `helm:` part of the schema."""

import re
from dataclasses import dataclass

from effchal.config.errors import require


@dataclass
class HelmConfig:
    """How HELM is run; scenario.* says on what."""

    environment: str = (
        ".venv-helm"  # the virtual environment with HELM in it; scripts/helm.sh makes it
    )
    name: str | None = (
        None  # of the model in HELM's tables and pages; null = effchal/<name of the bundle or model>
    )
    max_sequence_length: int = (
        2048  # tokens of prompt and answer, as in the contest; less where the model takes less
    )
    threads: int = 4  # requests at once
    timeout_s: int = 3000  # after which HELM gives up on an answer
    url: str | None = None  # of a server that runs already; null = start one
    page: bool = (
        False  # show HELM's page of the results afterwards, on this machine alone, until Ctrl-C
    )

    def __post_init__(self) -> None:
        is_name = self.name is None or re.fullmatch(r"[\w.-]+/[\w.-]+", self.name)
        require(
            bool(is_name),
            "helm.name",
            self.name,
            "<organisation>/<model> of letters, digits, '.', '-' and '_'",
        )
        require(
            self.max_sequence_length >= 64,
            "helm.max_sequence_length",
            self.max_sequence_length,
            "at least 64",
        )
        for key in ("threads", "timeout_s"):
            require(getattr(self, key) >= 1, f"helm.{key}", getattr(self, key), "at least 1")
        is_url = self.url is None or self.url.startswith(("http://", "https://"))
        require(is_url, "helm.url", self.url, "an address like http://127.0.0.1:8080")
