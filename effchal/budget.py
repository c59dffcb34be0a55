"""Wall-clock guard and learning-rate schedule: stop in time to save, and count time across restarts."""

import math
import time
from collections.abc import Callable

from effchal.choices import Schedule


class WallClock:
    """Seconds spent on a run, earlier processes of the same run included.

    The slowest lap so far is held back on top of the reserve. A lap is a step
    with the validation and checkpoint that may follow it; only a lap slower than
    every one before it can reach into the reserve.
    """

    def __init__(
        self,
        limit_s: float,
        reserve_s: float,  # for the last checkpoint, the bundle and the last validation
        spent_before_s: float = 0.0,  # by earlier processes, and by this one before now
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s, self.reserve_s = limit_s, reserve_s
        self.spent_before_s = spent_before_s
        self.slowest_lap_s = 0.0
        self._now = now
        self._start = self._lap_start = now()

    def spent_s(self) -> float:
        return self.spent_before_s + self._now() - self._start

    def hold_back(self, seconds: float) -> None:
        """Add to the reserve what turned out to be needed after the last step."""
        self.reserve_s += seconds

    def can_start_step(self) -> bool:
        return self.spent_s() + self.slowest_lap_s + self.reserve_s < self.limit_s

    def start_lap(self) -> None:
        """Call right before the first step: what came before it is spent, but is no lap."""
        self._lap_start = self._now()

    def lap(self) -> None:
        """Call after every step and what belongs to it."""
        now = self._now()
        self.slowest_lap_s = max(self.slowest_lap_s, now - self._lap_start)
        self._lap_start = now


def lr_factor(step: int, steps: int, warmup_steps: int, schedule: Schedule, min_factor: float) -> float:
    """Share of the peak learning rate for step `step` (from 0) of `steps`.

    Linear from 1/warmup_steps to 1 over the warm-up, then down to min_factor at
    the last step (cosine or linear), or level (constant).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule is Schedule.constant:
        return 1.0
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    fall = (1 + math.cos(math.pi * progress)) / 2 if schedule is Schedule.cosine else 1 - progress
    return min_factor + (1 - min_factor) * fall
