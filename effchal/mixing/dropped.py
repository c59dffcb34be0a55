"""Rows that a rule leaves out, counted and shown."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from effchal.mixing.example import Example

SHOWN = 3  # examples of what a rule drops
SHORT = 160  # characters of their texts


@dataclass(frozen=True)
class DroppedExample:
    id: str
    text: str
    detail: str  # why, e.g. what it is a duplicate of


@dataclass
class Dropped:
    """What one rule left out of one source."""

    count: int = 0
    examples: list[DroppedExample] = field(default_factory=list)  # the first ones

    @classmethod
    def of(cls, saved: dict[str, Any], source: str) -> "Dropped":
        """From what asdict made of it; the source may have had another name."""
        return cls(
            saved["count"],
            [
                DroppedExample(**each | {"id": f"{source}:{each['id'].rpartition(':')[2]}"})
                for each in saved["examples"]
            ],
        )

    def add(self, read: Callable[[], Example], detail: str) -> None:
        """Count a row. `read` is called if it is shown."""
        if len(self.examples) < SHOWN:
            example = read()
            text = " / ".join(turn.content[:SHORT] for turn in example.turns)
            self.examples.append(DroppedExample(example.id, short(text), short(detail)))
        self.count += 1

    def shifted(self, rows: int) -> "Dropped":
        """The same, of a file before which the source has so many rows."""
        split = [(each, *each.id.rpartition(":")) for each in self.examples]
        shifted = [replace(e, id=f"{name}:{int(number) + rows}") for e, name, _, number in split]
        return Dropped(self.count, shifted)

    def join(self, other: "Dropped") -> None:
        self.count += other.count
        self.examples = (self.examples + other.examples)[:SHOWN]


def short(text: str) -> str:
    """The beginning of a text in one line."""
    words = " ".join(text[: 2 * SHORT].split())
    return words if len(words) <= SHORT else words[: SHORT - 1] + "…"
