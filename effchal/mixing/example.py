"""One conversation of a source."""

import hashlib
from dataclasses import dataclass

from effchal.prompts.encoder import Turn


@dataclass(frozen=True)
class Example:
    id: str  # <source>:<row number in the unfiltered source, from 0>
    turns: tuple[Turn, ...]

    @property
    def questions(self) -> int:
        return sum(turn.role == "user" for turn in self.turns)

    @property
    def prompt_key(self) -> str:
        """Digest of the first question, case and spaces aside: it decides about validation."""
        question = next((turn for turn in self.turns if turn.role == "user"), self.turns[0])
        return hashlib.sha256(" ".join(question.content.lower().split()).encode()).hexdigest()
