"""What a report says of one run among the finalists."""

from dataclasses import asdict, dataclass, field
from typing import Any

from effchal.evaluation.stats import exact_interval, mcnemar
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
    def unseen(self) -> tuple[float, float] | None:
        """The share that may be right where all or none are: exact, 95 %; None for others."""
        return exact_interval(next(iter(self.metrics.values())).value, self.instances)


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
    better: int  # instances that the run answers better than the first
    worse: int

    @property
    def p(self) -> float:
        """Of the exact sign test; McNemar's, for answers that are right or wrong."""
        return mcnemar(self.better, self.worse)

    @property
    def verdict(self) -> str:
        words = "differs" if self.p < 0.05 else "cannot be told apart"
        return f"{words} (better {self.better}, worse {self.worse}, p = {self.p:.2g})"
