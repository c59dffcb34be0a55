"""What is known of a run while it goes on, out of the records that metrics.jsonl gets."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from effchal.tracking.words import clock_time, duration

KEPT = 40  # losses that the sparkline shows; steps whose pace the estimate takes


@dataclass
class Shown:
    """A run as the view shows it. None: not known yet, or not measured."""

    title: str = ""
    steps: int | None = None
    step: int = 0
    epochs: float | None = None  # planned
    limit_s: float | None = None
    memory_limit_gib: float | None = None
    spent_s: float | None = None
    reserve_s: float = 0.0  # of the budget, kept for the end
    end_s: float = 0.0  # what the end takes, as far as it was measured
    last: dict[str, Any] = field(default_factory=dict)  # record of a step
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    validation: list[tuple[int, float]] = field(default_factory=list)  # step and loss
    sample: dict[str, str] | None = None  # prompt and completion
    _ends: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=KEPT + 1))
    _taken_s: float = field(default_factory=time.monotonic)  # when spent_s was so much

    def take(self, record: dict[str, Any]) -> None:
        """Take what a record of metrics.jsonl says."""
        step = record["step"]
        self.spent_s, self._taken_s = record["spent_s"], time.monotonic()
        if "loss" in record:
            self.step, self.last = step, record
            self.losses.append(record["loss"])
        if record.get("validation_loss") is not None:
            self.validation.append((step, record["validation_loss"]))
        if record.get("samples"):
            self.sample = record["samples"][0]
        if not self._ends or step > self._ends[-1][0]:  # what follows a step belongs to the next
            self._ends.append((step, record["spent_s"]))

    @property
    def step_s(self) -> float | None:
        """Seconds that a step takes, with the work between steps."""
        if len(self._ends) < 2:
            return None
        (first, begin), (last, end) = self._ends[0], self._ends[-1]
        return (end - begin) / (last - first)

    def ends(self, brief: bool = False) -> str:
        """When the run ends, and by what unless brief; empty before that can be told."""
        if self.step_s is None or self.spent_s is None or self.step >= (self.steps or 0):
            return ""
        assert self.steps is not None
        left_s, why = (self.steps - self.step) * self.step_s, "with its last step"
        if self.limit_s is not None:
            budget_s = max(0.0, self.limit_s - self.reserve_s - self.spent_s)
            if budget_s < left_s:
                left_s, why = budget_s, "by its budget"
        when = f"ends about {clock_time(left_s + self.end_s)}"
        return when if brief else f"{when} {why}"

    def time(self) -> str:
        """Time spent so far, of how much."""
        if self.spent_s is None:
            return ""
        limit = f" of {duration(self.limit_s)}" if self.limit_s is not None else ""
        return f"{duration(self.spent_s + time.monotonic() - self._taken_s)}{limit}"
