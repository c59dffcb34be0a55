"""What a run tells while it trains: metrics.jsonl and its mirrors, the log, the terminal."""

import logging
from pathlib import Path
from typing import Any

from effchal.model.device import peak_memory_gib
from effchal.tracking.ending import as_typed
from effchal.tracking.lines import DRAWN
from effchal.tracking.terminal import RunDisplay
from effchal.tracking.tracker import Tracker
from effchal.training.run import Run
from effchal.training.step import StepStats

log = logging.getLogger("effchal.train")


class Recorder:
    """Keeps and shows records. Of several processes the first one alone does so."""

    def __init__(self, run: Run, display: RunDisplay) -> None:
        cfg, state, self._clock, self._display = run.cfg, run.state, run.clock, display
        self._setup, self._state = run.setup, state
        first = run.setup.ranks.is_first
        self._tracker = Tracker(run.folder, cfg.track, cfg.name, state.step) if first else None

    def keep(self, record: dict[str, Any]) -> None:
        """Write a record into metrics.jsonl, and show it."""
        if self._tracker is None:
            return
        self._tracker.log(record)
        clock = self._clock
        self._display.take(record, reserve_s=clock.reserve_s(), end_s=sum(clock.costs.values()))

    def start(self) -> None:
        order, state, setup = self._setup.order, self._state, self._setup
        if self._tracker is None:
            return
        # Keeps the seconds of records that were dropped on a resume.
        self._tracker.log({"step": state.step, "spent_s": self._clock.spent_s()})
        before = state.validation_loss_before
        self._display.take(
            {"step": state.step, "spent_s": self._clock.spent_s()},
            step=state.step,
            steps=setup.steps,
            epochs=order.examples / order.of_epoch,
            validation=[] if before is None else [(0, before)],
        )

    def step(self, stats: StepStats, step_s: float) -> None:
        state, tokens_per_s = self._state, stats.tokens / step_s
        speed = f"{tokens_per_s / 1000:.1f}k" if tokens_per_s >= 1000 else f"{tokens_per_s:.0f}"
        log.info(
            "step %d/%d | loss %.3f | lr %.1e | grad %.2f | %s tok/s | %s of %s",
            state.step,
            self._setup.steps,
            stats.loss,
            state.lr,
            stats.grad_norm,
            speed,
            hours(self._clock.spent_s()),
            hours(self._clock.limit_s),
            extra=DRAWN,
        )
        record = {
            "step": state.step,
            **vars(stats),
            "lr": state.lr,
            "tokens_per_s": tokens_per_s,
            "epoch": self._setup.order.epochs_after(state.step),
            "memory_gib": peak_memory_gib(self._setup.device),
            "spent_s": self._clock.spent_s(),
        }
        if state.micro_batch_divisor > 1:
            record["micro_batch_divisor"] = state.micro_batch_divisor
        self.keep(record)

    def end(self, status: str, bundle: Path) -> None:
        spent = hours(self._clock.spent_s())
        losses = self._state.losses()
        steps = self._state.step
        log.info("%s after %d steps in %s; %s", status, steps, spent, losses, extra=DRAWN)
        log.info("bundle: %s", as_typed(bundle), extra=DRAWN)

    def spent(self) -> str:
        return f"{hours(self._clock.spent_s())} spent"

    def close(self) -> None:
        """End the mirrors of the record."""
        if self._tracker is not None:
            self._tracker.close()


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f}h" if seconds >= 3600 else f"{seconds / 60:.1f}min"
