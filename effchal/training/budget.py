"""The wall clock of a run, its pace, and the learning-rate schedule that follows both.

The clock ends a run in time, with everything saved, and counts time across restarts.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from effchal.config import BudgetConfig
from effchal.config.choices import Schedule

# Factors over the slowest save and validation so far.
RESERVE_FACTOR = 2.0  # kept free while steps start
LAST_FACTOR = 1.25  # kept free by the last step and by work after it
DOUBT_FACTOR = 1.5  # for the guess, before an update, whether a last step will fit
# Reserve for what was never measured: a share of the limit, and at most so much.
UNSEEN_SHARE, UNSEEN_MOST_S = 0.02, 60.0


class WallClock:
    """Seconds spent on a run, those of its earlier processes among them.

    A step starts only if one as slow as the slowest so far leaves the reserve untouched.
    The reserve is a multiple of what checkpoint, bundle and validation took so far, or
    what the user sets.
    """

    def __init__(
        self,
        limit_s: float,
        reserve_s: float | None = None,  # None: measured
        spent_before_s: float = 0.0,  # by earlier processes, and by this one before now
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s = limit_s
        self.spent_before_s = spent_before_s
        self.costs: dict[str, float] = {}  # slowest so far of each thing that the end needs
        self.slowest_lap_s = 0.0
        self._reserve_s = reserve_s
        self._periodic_work_s = 0.0
        self._laps: deque[float] = deque(maxlen=9)
        self._slowest_micro_batch_s = self._micro_batch_start = 0.0
        self._now = now
        self._start = self._lap_start = now()

    @classmethod
    def of(cls, budget: BudgetConfig, spent_before_s: float = 0.0) -> "WallClock":
        """The clock of a budget. `spent_before_s` counts towards it."""
        minutes = budget.reserve_minutes
        return cls(budget.hours * 3600, None if minutes is None else minutes * 60, spent_before_s)

    def spent_s(self) -> float:
        return self.spent_before_s + self._now() - self._start

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the clock."""
        return {"costs": dict(self.costs), "spent_s": self.spent_s()}

    def reserve_s(self) -> float:
        """Seconds kept free for the end of the run."""
        if self._reserve_s is not None:
            return self._reserve_s + self.costs.get("validation", 0.0)
        unseen_s = min(UNSEEN_SHARE * self.limit_s, UNSEEN_MOST_S)
        return unseen_s + RESERVE_FACTOR * sum(self.costs.values())

    def add_cost(self, what: str, seconds: float, periodic: bool = False) -> None:
        """Record how long something took that the end needs as well.

        Args:
            periodic: it was done between steps, and could have waited.
        """
        self.costs[what] = max(self.costs.get(what, 0.0), seconds)
        if periodic:
            self._periodic_work_s += seconds

    def can_start_step(self) -> bool:
        return self.spent_s() + self.slowest_lap_s + self.reserve_s() < self.limit_s

    def can_start_last_step(self) -> bool:
        """Whether one more step of the usual length fits into the reserve."""
        return self._fits_last_step(self._laps, LAST_FACTOR)

    def is_last_step(self) -> bool:
        """Whether no step can start after this one. Call just before the optimizer's update.

        Errs towards True: annealing one step early costs less than never annealing.
        """
        lap_s = self._now() - self._lap_start
        another = self.spent_s() + max(self.slowest_lap_s, lap_s) + self.reserve_s() < self.limit_s
        return not another and not self._fits_last_step([*self._laps, lap_s], DOUBT_FACTOR)

    def _fits_last_step(self, laps: Iterable[float], factor: float) -> bool:
        laps = sorted(laps)
        usual_s = laps[len(laps) // 2] if laps else math.inf
        return self.spent_s() + factor * (usual_s + sum(self.costs.values())) < self.limit_s

    def end_micro_batch(self) -> None:
        """Call after each micro-batch of a step, and device_queue.DeviceQueue's before it."""
        now = self._now()
        took_s = now - self._micro_batch_start
        self._slowest_micro_batch_s = max(self._slowest_micro_batch_s, took_s)
        self._micro_batch_start = now

    def must_cut(self, under_way: int = 0) -> bool:
        """Whether another micro-batch, as slow as this step's slowest, leaves no time to end.

        This cuts a step short that stalls.

        Args:
            under_way: micro-batches that the device still works on.
        """
        known = "bundle" in self.costs  # not before the end of the first step
        end_s = LAST_FACTOR * sum(self.costs.values()) if known else self.reserve_s()
        left_s = (1 + under_way) * self._slowest_micro_batch_s
        return self.spent_s() + left_s + end_s > self.limit_s

    def affords(self, what: str, share: float) -> bool:
        """Whether there is time for periodic work now. All of it may take `share` of the time."""
        seconds = self.costs.get(what, 0.0)
        fits = self.spent_s() + seconds + self.slowest_lap_s + self.reserve_s() < self.limit_s
        return fits and self._periodic_work_s + seconds <= share * self.spent_s()

    def fits_at_end(self, what: str) -> bool:
        """Whether there is time for one more thing after the last step."""
        return self.spent_s() + LAST_FACTOR * self.costs.get(what, 0.0) < self.limit_s

    def progress(self, first_step_s: float) -> float:
        """Share of the time for steps that is over, in [0, 1]. It is 1 once no step can start.

        Args:
            first_step_s: seconds spent when the first step began.
        """
        end_s = self.limit_s - self.reserve_s() - 2 * self.slowest_lap_s
        if end_s <= first_step_s:
            return 1.0
        return min(1.0, max(0.0, (self.spent_s() - first_step_s) / (end_s - first_step_s)))

    def start_lap(self) -> None:
        """Call right before a step."""
        self._lap_start = self._micro_batch_start = self._now()
        self._slowest_micro_batch_s = 0.0

    def lap(self) -> None:
        """Call right after a step."""
        lap_s = self._now() - self._lap_start
        self.slowest_lap_s = max(self.slowest_lap_s, lap_s)
        self._laps.append(lap_s)


class Pace:
    """Tokens per second over steps. The first step is left out: much in it happens only once."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, float]] = []  # tokens, seconds

    def add(self, tokens: int, seconds: float) -> None:
        self._steps.append((tokens, seconds))

    @property
    def steps(self) -> int:
        return len(self._steps)

    @property
    def tokens_per_s(self) -> float | None:
        """None after fewer than two steps."""
        timed = self._steps[1:]
        if not timed:
            return None
        return sum(tokens for tokens, _ in timed) / sum(seconds for _, seconds in timed)

    @property
    def spread(self) -> float:
        """Relative standard error of the mean speed; 0 after fewer than three steps."""
        speeds = [tokens / seconds for tokens, seconds in self._steps[1:]]
        if len(speeds) < 2:
            return 0.0
        return statistics.stdev(speeds) / len(speeds) ** 0.5 / statistics.mean(speeds)


def lr_factor(
    step: int,
    steps: int,
    warmup_steps: int,
    schedule: Schedule,
    min_factor: float,
    time_progress: float = 0.0,
) -> float:
    """Share of the peak learning rate for step `step` (from 0) of `steps`.

    It rises linearly from 1/warmup_steps to 1, then falls to min_factor (cosine, linear)
    or stays (constant). Time decides where it is ahead of the steps, so that every run
    reaches the floor. Otherwise the factor depends on the step alone, and a resumed run
    gives the same bits.
    """
    warm = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    if schedule is Schedule.constant:
        return warm
    progress = max(0.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    if time_progress > (step + 1) / steps:
        progress = max(progress, time_progress)
    fall = (1 + math.cos(math.pi * progress)) / 2 if schedule is Schedule.cosine else 1 - progress
    return min(warm, min_factor + (1 - min_factor) * fall)
