"""Rows that hold questions of an evaluation: the same words in the same order."""

from dataclasses import dataclass
from pathlib import Path

from effchal.config import DecontaminateConfig
from effchal.mixing.sources import Example


@dataclass(frozen=True)
class Match:
    evaluation: str  # "gsm", "mmlu:subject=anatomy", or a file of the user's
    instance: str  # where the question stands: "<file>, line 12"
    text: str  # the words that both have, normalised
    turn: int  # of the example, from 0

    @property
    def detail(self) -> str:
        """For people: what was found, and where."""
        return f"turn {self.turn + 1} has words of {self.evaluation} ({self.instance}): {self.text}"


class Decontaminator:
    """The words of evaluations, and which rows have them. It can be pickled."""

    checked: dict[str, int]  # questions by evaluation
    not_checked: dict[str, str]  # why, by evaluation
    sha256: str  # of all questions and of the rule: a cache of results depends on it

    @classmethod
    def of(cls, cfg: DecontaminateConfig, scenarios: Path | None = None) -> "Decontaminator":
        """Read the evaluations that this machine has, and the files of the config.

        Args:
            scenarios: scenario.path, a folder in HELM's layout; None is this user's cache.

        Raises:
            DataError: a file that cannot be read.
        """
        raise NotImplementedError

    def match(self, example: Example) -> Match | None:
        """The first words of an evaluation in a row."""
        raise NotImplementedError
