"""A training run: the loop over its steps, what is due between them, the last save."""

import logging
import math
from pathlib import Path
from typing import Any

from effchal.config import Config, save_config
from effchal.config.choices import Schedule
from effchal.mixing.packing import MicroBatch
from effchal.mixing.prepare import PreparedData
from effchal.model.device import limit_gpu_memory, peak_memory_gib, pick_device
from effchal.tracking.ending import as_typed
from effchal.tracking.lines import DRAWN
from effchal.tracking.shown import Shown
from effchal.tracking.terminal import RunDisplay, progress
from effchal.tracking.tracker import Tracker, rewind_metrics
from effchal.training.budget import Pace, WallClock, lr_factor
from effchal.training.build import RunState, TrainingSetup, build, restore
from effchal.training.device_queue import DeviceQueue
from effchal.training.fitting import ExampleTooLarge, step_that_fits
from effchal.training.saving import Saver
from effchal.training.signals import StopSignals
from effchal.training.step import NonFiniteError, StepStats, train_step
from effchal.training.validation import Validator

log = logging.getLogger("effchal.train")


class Trainer:
    """Model, optimizer, state, clock and tracker of one run, and the loop over its steps."""

    def __init__(
        self,
        cfg: Config,
        run_dir: Path,
        setup: TrainingSetup,
        state: RunState,
        clock: WallClock,
        display: RunDisplay,
    ) -> None:
        self.cfg, self.run_dir, self.setup, self.display = cfg, run_dir, setup, display
        self.model, self.optimizer, self.steps = setup.model, setup.optimizer, setup.steps
        self.state, self.clock = state, clock
        self.tracker = Tracker(run_dir, cfg.track, cfg.name, state.step)
        self.pace = Pace()
        self.device_queue = DeviceQueue(setup.device)
        self.error: str | None = None  # why the run failed
        self.validator = Validator(cfg, setup, state, clock, self.keep)
        self.saver = Saver(cfg, run_dir, setup, state, clock)
        train = cfg.train
        self._floor = 1.0 if train.schedule is Schedule.constant else train.min_lr_fraction
        self._lr_factor = math.inf if state.lr is None else state.lr / train.lr

    @classmethod
    def build(
        cls,
        cfg: Config,
        data: PreparedData,
        clock: WallClock,
        run_dir: Path,
        command: str = "",
        display: RunDisplay | None = None,
    ) -> "Trainer":
        """The trainer of a new run, or of one restored from the checkpoints in its folder.

        Args:
            command: what was typed; a restored run keeps the one that it began with.
            display: None shows nothing.

        Raises:
            ConfigError: before any training.
        """
        device = pick_device()
        limit_gpu_memory(cfg.budget.memory_gib, device)
        setup = build(cfg, data, device)
        state, spent_s = restore(cfg, setup, data.sha256, clock, run_dir)
        state.command = state.command or command
        (run_dir / "run.json").unlink(missing_ok=True)
        save_config(cfg, run_dir / "config.yaml")
        # A killed process wrote no checkpoint at its end, but its records say how long it lived.
        clock.spent_before_s += max(spent_s, rewind_metrics(run_dir, state.step))
        display = display or RunDisplay(Shown(), None)
        return cls(cfg, run_dir, setup, state, clock, display)

    def fit(self, signals: StopSignals) -> str:
        """Train until the steps are done, the budget ends, a signal comes or a step fails.

        Returns:
            The status: "finished", "stopped_by_budget", "interrupted" or "failed".
        """
        state = self.state
        # Keeps the seconds of records that were dropped on a resume.
        self.tracker.log({"step": state.step, "spent_s": self.clock.spent_s()})
        self.show_start()
        self.model.train()
        self.validator.must_stop = lambda: signals.received is not None
        if signals.received:  # while loading
            return "interrupted"
        if self.clock.spent_s() >= self.clock.limit_s:
            log.warning("budget: %s before the first step could start", self.spent())
            return "stopped_by_budget"
        if state.step == 0:
            state.validation_loss_before = self.validator.validate()
            state.first_step_s = self.clock.spent_s()
        ends = self.display.shown.ends
        with progress("training", self.steps, "steps", state.step, ends) as advance:
            while state.step < self.steps:
                if signals.received:
                    return "interrupted"
                time_progress = self.time_progress()
                if time_progress is None:
                    log.warning("budget: %s, stopping at step %d", self.spent(), state.step)
                    return "stopped_by_budget"
                try:
                    was_cut = self.step(time_progress)
                except (NonFiniteError, ExampleTooLarge) as error:
                    self.error = str(error)
                    return "failed"
                if was_cut:
                    return "interrupted" if signals.received else "stopped_by_budget"
                if "bundle" not in self.clock.costs:
                    with progress("saving once, to see that it works"):
                        self.saver.dry_run()
                if state.step < self.steps:
                    self.periodic_work()
                advance(state.step)
        return "finished"

    def show_start(self) -> None:
        order, state = self.setup.order, self.state
        before = state.validation_loss_before
        self.display.take(
            {"step": state.step, "spent_s": self.clock.spent_s()},
            step=state.step,
            steps=self.steps,
            epochs=order.examples / order.of_epoch,
            validation=[] if before is None else [(0, before)],
        )

    def keep(self, record: dict[str, Any]) -> None:
        """Write a record into metrics.jsonl, and show it."""
        self.tracker.log(record)
        clock = self.clock
        self.display.take(record, reserve_s=clock.reserve_s(), end_s=sum(clock.costs.values()))

    def time_progress(self) -> float | None:
        """Share of the time for steps that is over; None if no step can start."""
        if self.clock.can_start_step():
            return self.clock.progress(self.state.first_step_s or 0.0)
        # A stall may have used up the time in which the learning rate would have fallen.
        # Then one step at its floor still runs, inside the reserve.
        annealed = self._lr_factor <= self._floor * (1 + 1e-6)
        if annealed or self.state.step == 0 or not self.clock.can_start_last_step():
            return None
        return 1.0

    def step(self, time_progress: float) -> bool:
        """One step, counted and logged. Returns whether it was cut short."""
        train, state, clock = self.cfg.train, self.state, self.clock
        clock.start_lap()
        self._lr_factor = lr_factor(
            state.step,
            self.steps,
            train.warmup_steps,
            train.schedule,
            train.min_lr_fraction,
            time_progress,
        )
        self.set_lr(train.lr * self._lr_factor)
        started_s = clock.spent_s()
        stats, micro_batches = step_that_fits(
            # A try that failed is no lap: the steps to come will not be as slow.
            self.cfg,
            self.setup,
            state,
            self.run_step,
            before_retry=clock.start_lap,
        )
        state.step += 1
        state.tokens += stats.tokens
        state.target_tokens += stats.target_tokens
        state.train_loss = stats.loss
        step_s = clock.spent_s() - started_s
        self.pace.add(stats.tokens, step_s)
        self.log_step(stats, step_s)
        clock.lap()
        planned = sum(micro_batch.target_tokens for micro_batch in micro_batches)
        was_cut = stats.target_tokens < planned
        if was_cut:
            done = f"{stats.target_tokens} of its {planned} target tokens"
            log.warning("budget: %s, step %d was cut short at %s", self.spent(), state.step, done)
        return was_cut

    def run_step(self, micro_batches: list[MicroBatch]) -> StepStats:
        return train_step(
            self.model,
            self.optimizer,
            micro_batches,
            self.cfg.train.max_grad_norm,
            must_cut=self.must_cut,
            before_update=self.anneal_if_last,
        )

    def must_cut(self) -> bool:
        """After a micro-batch: whether the step must end with it."""
        under_way = self.device_queue.end_micro_batch()
        self.clock.end_micro_batch()
        return self.clock.must_cut(under_way)

    def anneal_if_last(self, was_cut: bool) -> None:
        """Before an update: use the schedule's floor if no other step can follow."""
        if was_cut or self.clock.is_last_step():
            lr = self.state.lr or 0.0
            self.set_lr(min(lr, self.cfg.train.lr * self._floor))  # a warm-up may be below

    def set_lr(self, lr: float) -> None:
        self.state.lr = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def periodic_work(self) -> None:
        """What is due after a step. It waits if it would take too much of the budget."""
        if self.validator.is_due(self.state.step):
            self.validator.validate(periodic=True)
        if self.saver.is_due(self.state.step):
            with progress("saving"):
                self.saver.try_checkpoint(periodic=True)

    def save(self, status: str) -> None:
        """Save what is there, then measure it: no end of the process loses what was trained.

        Raises:
            OSError: the disk takes no bundle, for example; earlier checkpoints are untouched.
        """
        with progress("saving"):
            self.saver.try_checkpoint()
            self.saver.write_bundle(status)
        if status in ("finished", "stopped_by_budget"):
            is_measured = self.state.validation_step == self.state.step
            if self.clock.fits_at_end("validation"):
                self.validator.validate()
                self.saver.complete_card(status)
            elif not is_measured:
                log.warning(
                    "no time is left for the last validation; for one, give more than "
                    "budget.hours=%g",
                    self.cfg.budget.hours,
                )
            self.saver.choose_weights(status)
        if self.error is not None:
            log.error("%s", self.error)

    def log_end(self, status: str) -> None:
        spent = hours(self.clock.spent_s())
        losses = self.state.losses()
        log.info("%s after %d steps in %s; %s", status, self.state.step, spent, losses, extra=DRAWN)
        log.info("bundle: %s", as_typed(self.saver.bundle), extra=DRAWN)

    def log_step(self, stats: StepStats, step_s: float) -> None:
        state, tokens_per_s = self.state, stats.tokens / step_s
        speed = f"{tokens_per_s / 1000:.1f}k" if tokens_per_s >= 1000 else f"{tokens_per_s:.0f}"
        log.info(
            "step %d/%d | loss %.3f | lr %.1e | grad %.2f | %s tok/s | %s of %s",
            state.step,
            self.steps,
            stats.loss,
            state.lr,
            stats.grad_norm,
            speed,
            hours(self.clock.spent_s()),
            hours(self.clock.limit_s),
            extra=DRAWN,
        )
        record = {
            "step": state.step,
            **vars(stats),
            "lr": state.lr,
            "tokens_per_s": tokens_per_s,
            "epoch": self.setup.order.epochs_after(state.step),
            "memory_gib": peak_memory_gib(self.setup.device),
            "spent_s": self.clock.spent_s(),
        }
        if state.micro_batch_divisor > 1:
            record["micro_batch_divisor"] = state.micro_batch_divisor
        self.keep(record)

    def spent(self) -> str:
        return f"{hours(self.clock.spent_s())} spent"


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f}h" if seconds >= 3600 else f"{seconds / 60:.1f}min"
