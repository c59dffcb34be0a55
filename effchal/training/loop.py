"""A training run: the loop over its steps, what is due between them, the last save."""

import logging
import math
from contextlib import nullcontext
from pathlib import Path

from effchal.config import Config, save_config
from effchal.config.choices import Schedule
from effchal.mixing.packing import MicroBatch
from effchal.mixing.prepare import PreparedData
from effchal.model.device import limit_gpu_memory, pick_device
from effchal.tracking.ending import as_typed
from effchal.tracking.shown import Shown
from effchal.tracking.terminal import RunDisplay, progress
from effchal.tracking.tracker import rewind_metrics
from effchal.training.budget import Pace, WallClock, lr_factor
from effchal.training.build import build, check_alike, restore
from effchal.training.device_queue import DeviceQueue
from effchal.training.fitting import ExampleTooLarge, step_that_fits
from effchal.training.launch import RankLost
from effchal.training.ranks import ALONE, Ranks, abort_exchanges, lost_peers
from effchal.training.recorder import Recorder
from effchal.training.run import Run
from effchal.training.saving import Saver
from effchal.training.signals import StopSignals
from effchal.training.step import NonFiniteError, PassLeft, StepStats, count_targets, train_step
from effchal.training.validation import Validator

log = logging.getLogger("effchal.train")


class Trainer:
    """Model, optimizer, state, clock and tracker of one run, and the loop over its steps."""

    def __init__(self, run: Run, display: RunDisplay) -> None:
        setup, state, train = run.setup, run.state, run.cfg.train
        self.run, self.display = run, display
        self.cfg, self.run_dir, self.setup = run.cfg, run.folder, setup
        self.model, self.optimizer, self.steps = setup.model, setup.optimizer, setup.steps
        self.state, self.clock = state, run.clock
        self.ranks = setup.ranks
        self.recorder = Recorder(run, display)
        self.pace = Pace()
        self.device_queue = DeviceQueue(setup.device)
        self.error: str | None = None  # why the run failed
        self.lost_peers = False  # whether another process of the run ended before its time
        self.validator = Validator(run, self.recorder.keep)
        self.saver = Saver(run)
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
        ranks: Ranks = ALONE,
    ) -> "Trainer":
        """The trainer of a new run, or of one restored from the checkpoints in its folder.

        Args:
            command: what was typed; a restored run keeps the one that it began with.
            display: None shows nothing.
            ranks: the processes that share each step.

        Raises:
            ConfigError: before any training.
        """
        device = pick_device()
        limit_gpu_memory(cfg.budget.memory_gib, device)
        setup = build(cfg, data, device, ranks)
        state, spent_s = restore(cfg, setup, data.sha256, clock, run_dir)
        check_alike(setup, state)
        state.command = state.command or command
        if ranks.is_first:
            (run_dir / "run.json").unlink(missing_ok=True)
            save_config(cfg, run_dir / "config.yaml")
            # A killed process wrote no checkpoint at its end, but its records say how long it
            # lived.
            clock.spent_before_s += max(spent_s, rewind_metrics(run_dir, state.step))
        display = display or RunDisplay(Shown(), None)
        return cls(Run(cfg, run_dir, setup, state, clock), display)

    def fit(self, signals: StopSignals) -> str:
        """Train until the steps are done, the budget ends, a signal comes or a step fails.

        Returns:
            The status: "finished", "stopped_by_budget", "interrupted" or "failed".
        """
        try:
            with lost_peers() if self.ranks.are_several else nullcontext():
                return self.run_steps(signals)
        except (NonFiniteError, ExampleTooLarge, PassLeft) as error:
            self.error = str(error)
        except RankLost as error:
            again = f"effchal train {as_typed(self.run_dir)}"
            self.error = f"{error}; go on with: {again}, which takes any train.gpus"
            self.lost_peers = True
            abort_exchanges(self.setup.device)
        return "failed"

    def run_steps(self, signals: StopSignals) -> str:
        state, clock, ranks = self.state, self.clock, self.ranks
        self.recorder.start()
        self.model.train()
        self.validator.must_stop = lambda: signals.received is not None
        if ranks.any(signals.received is not None):  # while loading
            return "interrupted"
        if ranks.decide(lambda: clock.spent_s() >= clock.limit_s):
            log.warning("budget: %s before the first step could start", self.recorder.spent())
            return "stopped_by_budget"
        if state.step == 0:
            state.validation_loss_before = self.validator.validate()
            state.first_step_s = clock.spent_s()
        ends = self.display.shown.ends
        with progress("training", self.steps, "steps", state.step, ends) as advance:
            while state.step < self.steps:
                if ranks.any(signals.received is not None):
                    return "interrupted"
                time_progress = self.agree()
                if time_progress is None:
                    spent = self.recorder.spent()
                    log.warning("budget: %s, stopping at step %d", spent, state.step)
                    return "stopped_by_budget"
                if self.step(time_progress):  # it was cut short
                    stopped = ranks.any(signals.received is not None)
                    return "interrupted" if stopped else "stopped_by_budget"
                if ranks.is_first and "bundle" not in clock.costs:
                    with progress("saving once, to see that it works"):
                        self.saver.dry_run()
                if state.step < self.steps:
                    self.periodic_work()
                advance(state.step)
        return "finished"

    def agree(self) -> float | None:
        """Tell all ranks what rank 0 knows, for one that must save in its place.

        Returns:
            rank 0's time_progress.
        """
        state = self.state
        names = ("best_loss", "best_step", "first_step_s", "command")
        known = {name: getattr(state, name) for name in names}
        time_progress, of_first = self.ranks.decide(lambda: (self.time_progress(), known))
        for name, value in of_first.items():
            setattr(state, name, value)
        return time_progress

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
        self.ranks.seed(train.seed, state.step)
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
        self.recorder.step(stats, step_s)
        clock.lap()
        planned = sum(self.ranks.gather(count_targets(micro_batches)))
        was_cut = stats.target_tokens < planned
        if was_cut:
            done = f"{stats.target_tokens} of its {planned} target tokens"
            spent = self.recorder.spent()
            log.warning("budget: %s, step %d was cut short at %s", spent, state.step, done)
        return was_cut

    def run_step(self, micro_batches: list[MicroBatch]) -> StepStats:
        return train_step(
            self.model,
            self.optimizer,
            micro_batches,
            self.cfg.train.max_grad_norm,
            must_cut=self.must_cut,
            before_update=self.anneal_if_last,
            ranks=self.ranks,
        )

    def must_cut(self) -> bool:
        """After a micro-batch: whether the step must end with it."""
        under_way = self.device_queue.end_micro_batch()
        self.clock.end_micro_batch()
        return self.ranks.decide(lambda: self.clock.must_cut(under_way))

    def anneal_if_last(self, was_cut: bool) -> None:
        """Before an update: use the schedule's floor if no other step can follow."""
        if self.ranks.decide(lambda: was_cut or self.clock.is_last_step()):
            lr = self.state.lr or 0.0
            self.set_lr(min(lr, self.cfg.train.lr * self._floor))  # a warm-up may be below

    def set_lr(self, lr: float) -> None:
        self.state.lr = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def periodic_work(self) -> None:
        """What is due after a step. It waits if it would take too much of the budget."""
        step = self.state.step
        if self.ranks.decide(lambda: self.validator.is_due(step)):
            self.validator.validate(periodic=True)
        if self.ranks.is_first and self.saver.is_due(step):
            with progress("saving"):
                self.saver.try_checkpoint(periodic=True)

    def save(self, status: str) -> None:
        """Save what is there, then measure it: no end of the process loses what was trained.

        Raises:
            OSError: the disk takes no bundle, for example; earlier checkpoints are untouched.
        """
        first = self.ranks.is_first
        if first:
            with progress("saving"):
                self.saver.try_checkpoint()
                self.saver.write_bundle(status)
        if status in ("finished", "stopped_by_budget"):
            try:
                with lost_peers() if self.ranks.are_several else nullcontext():
                    self.measure_last(status)
            except (RankLost, ExampleTooLarge, PassLeft) as error:
                log.warning("the last validation is missing: %s", error)
            if first:
                self.saver.choose_weights(status)
        if self.error is not None:
            log.error("%s", self.error)

    def measure_last(self, status: str) -> None:
        """Validate the last weights, if there is time."""
        is_measured = self.state.validation_step == self.state.step
        if self.ranks.decide(lambda: self.clock.fits_at_end("validation")):
            self.validator.validate()
            if self.ranks.is_first:
                self.saver.complete_card(status)
        elif not is_measured:
            log.warning(
                "no time is left for the last validation; for one, give more than budget.hours=%g",
                self.cfg.budget.hours,
            )
