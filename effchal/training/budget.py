"""Wall-clock guard and learning-rate schedule: end in time, annealed, with all saved; count time across restarts."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

from effchal.config.choices import Schedule

RESERVE_FACTOR = 2.0  # over the slowest save and validation so far
UNSEEN_SHARE, UNSEEN_MOST_S = 0.02, 60.0  # of the limit, kept for what was never seen
LAST_FACTOR = 1.25  # over the same, when it is the end
DOUBT_FACTOR = 1.5  # over the same, just before it may be


class WallClock:
    """Seconds spent on a run, earlier processes of the same run included.

    A step starts only if one as slow as the slowest so far would leave the reserve untouched. The reserve is what
    checkpoint, bundle and last validation took so far, with a factor; or what the user says.
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
        self.costs: dict[str, float] = {}  # the slowest so far, of each thing that the end needs
        self.slowest_lap_s = 0.0
        self._reserve_s = reserve_s
        self._side_work_s = 0.0
        self._laps: deque[float] = deque(maxlen=9)
        self._slowest_piece_s = self._piece_start = 0.0
        self._now = now
        self._start = self._lap_start = now()

    def spent_s(self) -> float:
        return self.spent_before_s + self._now() - self._start

    def reserve_s(self) -> float:
        if self._reserve_s is not None:
            return self._reserve_s + self.costs.get("validation", 0.0)
        unseen_s = min(UNSEEN_SHARE * self.limit_s, UNSEEN_MOST_S)
        return unseen_s + RESERVE_FACTOR * sum(self.costs.values())

    def cost(self, what: str, seconds: float, periodic: bool = False) -> None:
        """Something that the end needs took so long; `periodic`: it was done between steps and could have waited."""
        self.costs[what] = max(self.costs.get(what, 0.0), seconds)
        if periodic:
            self._side_work_s += seconds

    def can_start_step(self) -> bool:
        return self.spent_s() + self.slowest_lap_s + self.reserve_s() < self.limit_s

    def can_start_last_step(self) -> bool:
        """Whether one more step, of the usual length, fits into the reserve: the one that ends the schedule."""
        return self._fits_last_step(self._laps, LAST_FACTOR)

    def is_last_step(self) -> bool:
        """Call before the update of a step: whether neither another step nor a last one will be able to start after it.

        In doubt it says so: a rate that falls a step early costs less than one that never fell.
        """
        lap_s = self._now() - self._lap_start
        another = self.spent_s() + max(self.slowest_lap_s, lap_s) + self.reserve_s() < self.limit_s
        return not another and not self._fits_last_step([*self._laps, lap_s], DOUBT_FACTOR)

    def _fits_last_step(self, laps: Iterable[float], factor: float) -> bool:
        laps = sorted(laps)
        usual_s = laps[len(laps) // 2] if laps else math.inf
        return self.spent_s() + factor * (usual_s + sum(self.costs.values())) < self.limit_s

    def must_cut(self) -> bool:
        """Call between the pieces of a step: whether one more, as slow as its slowest so far, leaves no time to end.

        A step that stalls is cut short so. Where a device works on its own behind the clock, pieces look shorter than
        they are, and this comes late.
        """
        now = self._now()
        self._slowest_piece_s = max(self._slowest_piece_s, now - self._piece_start)
        self._piece_start = now
        known = "bundle" in self.costs  # not so in the first step
        end_s = LAST_FACTOR * sum(self.costs.values()) if known else self.reserve_s()
        return self.spent_s() + self._slowest_piece_s + end_s > self.limit_s

    def affords(self, what: str, share: float) -> bool:
        """Whether there is time for a validation or checkpoint between steps; all together take `share` at most."""
        seconds = self.costs.get(what, 0.0)
        fits = self.spent_s() + seconds + self.slowest_lap_s + self.reserve_s() < self.limit_s
        return fits and self._side_work_s + seconds <= share * self.spent_s()

    def fits_at_end(self, what: str) -> bool:
        """Whether there is time for one more thing after the last step."""
        return self.spent_s() + LAST_FACTOR * self.costs.get(what, 0.0) < self.limit_s

    def progress(self, first_step_s: float) -> float:
        """How much of the time for steps is over, from 0 to 1; 1 at the latest when no further step can start.

        Args:
            first_step_s: what was spent when the first step began.
        """
        end_s = self.limit_s - self.reserve_s() - 2 * self.slowest_lap_s
        if end_s <= first_step_s:
            return 1.0
        return min(1.0, max(0.0, (self.spent_s() - first_step_s) / (end_s - first_step_s)))

    def start_lap(self) -> None:
        """Call right before a step."""
        self._lap_start = self._piece_start = self._now()
        self._slowest_piece_s = 0.0

    def lap(self) -> None:
        """Call right after a step."""
        lap_s = self._now() - self._lap_start
        self.slowest_lap_s = max(self.slowest_lap_s, lap_s)
        self._laps.append(lap_s)


def lr_factor(
    step: int,
    steps: int,
    warmup_steps: int,
    schedule: Schedule,
    min_factor: float,
    time_progress: float = 0.0,
) -> float:
    """Share of the peak learning rate for step `step` (from 0) of `steps`.

    Linear from 1/warmup_steps to 1 over the warm-up; then down to min_factor (cosine or linear), or level (constant).
    Time decides where it is further on than the steps, so that the floor is reached however a run ends; where it is
    not, the factor is a function of the step alone, and a resumed run gives the same bits.
    """
    warm = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    if schedule is Schedule.constant:
        return warm
    progress = max(0.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    if time_progress > (step + 1) / steps:
        progress = max(progress, time_progress)
    fall = (1 + math.cos(math.pi * progress)) / 2 if schedule is Schedule.cosine else 1 - progress
    return min(warm, min_factor + (1 - min_factor) * fall)
