"""One budget for a whole sweep, by successive halving (Jamieson and Talwalkar, 2016).

Every training gets an equal share of the first rung's time. The best of them, by validation loss,
go on in the next rung, each with a larger budget, until one is left.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effchal.cli.compose import job_age_s
from effchal.config import ConfigError
from effchal.runs import write_atomic
from effchal.tracking.ending import read_run
from effchal.tracking.manifest import MOST_TRIES, TRIES, State
from effchal.tracking.words import duration

if TYPE_CHECKING:
    from effchal.sweeping.sweep import ManagedSweep

SHARE = 0.98  # of a rung's time for its trainings; the rest is for what lies between them
BEAT_S = 5.0  # how often the time that is spent is kept
log = logging.getLogger("effchal.sweep")


class SweepClock:
    """Seconds that a sweep took, by all of its calls; pauses between them do not count."""

    def __init__(self, folder: Path, limit_s: float) -> None:
        self.limit_s = limit_s
        self._file = folder / TRIES / "spent_s"
        self._before_s, self._start = 0.0, time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            self._before_s = float(self._file.read_text())

    def spent_s(self) -> float:
        return self._before_s + time.monotonic() - self._start

    def left_s(self) -> float:
        return self.limit_s - self.spent_s()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the time on disk while the block runs, so that a killed sweep has it too."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_S):
                self._write()

        self._write()
        beats = threading.Thread(target=beat, daemon=True)
        beats.start()
        try:
            yield
        finally:
            over.set()
            beats.join()
            self._write()

    def _write(self) -> None:
        self._file.parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            write_atomic(self._file, f"{self.spent_s():.3f}\n")


class Halving:
    """The rungs of a sweep. A rung that a killed call left half done is taken up."""

    def __init__(self, sweep: "ManagedSweep", hours: float, reduction_factor: int) -> None:
        self._sweep, self._manifest = sweep, sweep.manifest
        self._reduction_factor = reduction_factor
        self._clock = SweepClock(sweep.manifest.folder, hours * 3600)

    def run(self, numbers: list[int]) -> None:
        """Do all rungs inside the hours left.

        Raises:
            ConfigError: another set of jobs than the rungs were begun with.
        """
        rungs = self._manifest.rungs
        if rungs and rungs[0]["jobs"] != numbers:
            raise ConfigError(
                f"{self._manifest.folder} began with other trainings; a sweep with sweep.hours "
                "takes no new ones, so take another folder"
            )
        sizes = rung_sizes(len(numbers), self._reduction_factor)
        alive = numbers
        with self._clock.kept():
            if self._sweep.in_process:
                load_libraries()
            for index, size in enumerate(sizes):
                if self._clock.left_s() <= 0:
                    log.warning("sweep.hours are over before rung %d of %d", index + 1, len(sizes))
                    return
                alive = self._best(alive)[:size] if index else alive
                if not alive:
                    log.error("no validation loss was measured, so no training is the best")
                    return
                if index == len(rungs):
                    hours = self._hours(alive, len(sizes) - index)
                    rungs.append({"jobs": alive, "hours": hours})
                    self._manifest.save()
                alive = rungs[index]["jobs"]
                self._do(rungs[index], index, len(sizes))

    def _hours(self, numbers: list[int], rungs_left: int) -> dict[str, float]:
        """budget.hours of each training of a new rung, what it spent before included."""
        todo = [n for n in numbers if self._record(n).get("status") != "finished"]
        share_s = SHARE * self._clock.left_s() / rungs_left
        each_s = share_s / max(1, math.ceil(len(todo) / self._sweep.places))
        return {
            str(n): min(self._sweep.hours_of(n), (spent_s(self._record(n)) + each_s) / 3600)
            for n in numbers
        }

    def _do(self, rung: dict[str, Any], index: int, rungs: int) -> None:
        """Do what is left of a rung, inside the time left, and keep its losses."""
        todo = [n for n in rung["jobs"] if self._has_more(n, rung["hours"][str(n)])]
        hours = {n: min(rung["hours"][str(n)], self._most_hours(n)) for n in rung["jobs"]}
        longest = max((hours[n] for n in todo), default=0.0)
        log.info(
            "rung %d of %d: %d trainings, %d to do, up to %s each in all, %d at a time; %s left",
            *(index + 1, rungs, len(rung["jobs"]), len(todo), duration(longest * 3600)),
            *(self._sweep.places, duration(self._clock.left_s())),
        )
        if todo:
            self._sweep.launch(todo, {n: [f"budget.hours={hours[n]:.6g}"] for n in todo})
        rung["losses"] = {str(n): self._loss(n) for n in rung["jobs"]}
        self._manifest.save()

    def _most_hours(self, number: int) -> float:
        return (spent_s(self._record(number)) + self._clock.left_s()) / 3600

    def _has_more(self, number: int, hours: float) -> bool:
        state = self._manifest.state(number, lambda: hours)
        if state is State.failed:
            return self._manifest.failures(number) < MOST_TRIES
        return state is not State.done

    def _best(self, numbers: list[int]) -> list[int]:
        """The trainings with a validation loss, the lowest first."""
        losses = [(loss, n) for n in numbers if (loss := self._loss(n)) is not None]
        return [n for _, n in sorted(losses)]

    def _loss(self, number: int) -> float | None:
        """Validation loss of a training that ended well; None where none was measured."""
        record = self._record(number)
        ended_well = record.get("status") in ("finished", "stopped_by_budget")
        return record.get("validation_loss") if ended_well else None

    def _record(self, number: int) -> dict[str, Any]:
        return read_run(self._manifest.folder_of(number)) or {}


def load_libraries() -> None:
    """Load what every training needs, at the cost of the sweep and not of its first training."""
    import effchal.planning.outcome
    import effchal.training.loop  # noqa: F401

    job_age_s()  # what it took counts for no training


def spent_s(record: dict[str, Any]) -> float:
    return float(record.get("spent_s") or 0.0)


def rung_sizes(jobs: int, reduction_factor: int) -> list[int]:
    """How many trainings each rung has: all, then one of `reduction_factor`, until one is left."""
    sizes = [jobs]
    while sizes[-1] > 1:
        sizes.append(max(1, sizes[-1] // reduction_factor))
    return sizes
