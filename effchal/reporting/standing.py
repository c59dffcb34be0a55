"""What a report says of one run among the finalists."""

from dataclasses import asdict, dataclass, field
from typing import Any

from effchal.reporting.contest_scores import ContestScores


@dataclass(frozen=True)
class Span:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Place:
    """A place in a field with its 95 % interval, and the score that it goes by."""

    score: float  # a mean win rate, or a geometric mean of such
    place: int
    low: int
    high: int
    of: int

    @property
    def is_noise(self) -> bool:
        """Whether the interval spans more than a third of the field."""
        return 3 * (self.high - self.low + 1) > self.of


@dataclass(frozen=True)
class Missing:
    """What a side needs and a run has not."""

    names: list[str]


@dataclass(frozen=True)
class Measured:
    """One scenario of a run."""

    metrics: dict[str, Span]
    instances: int
    entries: list[str]
    not_measured: list[str]  # metrics of the contest that the run lacks
    place: Place

    @property
    def has_no_width(self) -> bool:
        """Whether every resample of the main metric is the same."""
        main = next(iter(self.metrics.values()))
        return main.low == main.high


@dataclass
class Standing:
    """One run among the finalists."""

    scores: ContestScores
    of: int  # places: the finalists and this run
    scenarios: dict[str, Measured] = field(default_factory=dict)
    sides: dict[str, Place | Missing] = field(default_factory=dict)  # open, hidden, final

    def to_json(self) -> dict[str, Any]:
        sides = {
            name: {"missing": each.names} if isinstance(each, Missing) else asdict(each)
            for name, each in self.sides.items()
        }
        return {
            "name": self.scores.name,
            "folder": str(self.scores.folder),
            "decoding": self.scores.decoding,
            "places": self.of,
            "scenarios": {name: asdict(each) for name, each in self.scenarios.items()},
            "sides": sides,
            "left_out": self.scores.left_out,
        }


@dataclass(frozen=True)
class Difference:
    """A run's main metric less the first run's, over the instances that both answered."""

    run: str
    scenario: str
    instances: int
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low > 0 or self.high < 0:
            return "differs"
        return "cannot be told apart"
