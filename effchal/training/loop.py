"""A training run: the loop around the training step, what is due between steps, the last save."""

import contextlib
import json
import logging
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from effchal.bundle import versions, write_bundle
from effchal.cli import job_age_s, overlay
from effchal.config import Config, ConfigError, load_config, save_config, to_plain
from effchal.config.choices import BundleOf, Schedule
from effchal.mixing.prepare import pack_for
from effchal.model.device import gpu_names
from effchal.planning.history import memory_used
from effchal.planning.outcome import keep_run, predicted_and_actual
from effchal.rules import enforce_rules
from effchal.runs import DRY_RUN_PREFIX, run_lock
from effchal.tracking import (
    Tracker,
    device_name,
    git_commit,
    peak_memory_gib,
    progress_bar,
    rewind_metrics,
)
from effchal.training.budget import WallClock, lr_factor
from effchal.training.build import Job, RunState, prepare, restore
from effchal.training.checkpoint import checkpoints, load_best, mark_best, save_checkpoint
from effchal.training.signals import StopSignals
from effchal.training.step import NonFiniteError, StepStats, train_step, validation_loss

log = logging.getLogger("effchal.train")


def start(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    """Train in output_dir, or go on in the folder of cfg.resume_from; leaves by sys.exit unless all went well."""
    run_dir = output_dir
    if cfg.resume_from is None and checkpoints(run_dir / "checkpoint"):
        raise ConfigError(
            f"{run_dir} holds a run already; go on with it by resume_from={run_dir}, or take another folder"
        )
    if cfg.resume_from is not None:
        run_dir = Path(cfg.resume_from)
        frozen = load_config(run_dir / "config.yaml")
        cfg = overlay(frozen, cfg, overrides, {"budget", "track", "resume_from"}, str(run_dir))
        cfg.resume_from = None
    if cfg.lora is None:
        raise ConfigError(
            "lora=none leaves nothing to train; serve it with python -m effchal.serve lora=none"
        )
    enforce_rules(cfg, gpu_names())
    with run_lock(run_dir), StopSignals() as signals:
        code = run(cfg, run_dir, signals, job_age_s())
    if code:  # an exit after success would end a sweep with its first run
        sys.exit(code)


def run(cfg: Config, run_dir: Path, signals: StopSignals, spent_before_s: float = 0.0) -> int:
    """Train, or go on training, in run_dir. Returns the exit code: 0, 1 (failed) or 128 + signal.

    Args:
        spent_before_s: of this process, before this call; it counts towards the budget.

    Raises:
        ConfigError, DataError: before any training.
    """
    reserve_s = None if cfg.budget.reserve_minutes is None else cfg.budget.reserve_minutes * 60
    clock = WallClock(cfg.budget.hours * 3600, reserve_s, spent_before_s)
    run_dir.mkdir(parents=True, exist_ok=True)
    job = prepare(cfg, run_dir)
    state = restore(job)
    (run_dir / "run.json").unlink(missing_ok=True)
    save_config(cfg, run_dir / "config.yaml")
    # A killed process wrote no checkpoint at its end, but its records say how long it lived.
    clock.spent_before_s += max(state.spent_s, rewind_metrics(run_dir, state.step))
    clock.costs = state.costs
    tracker = Tracker(run_dir, cfg.track, cfg.name, to_plain(cfg))
    tracker.log({"step": state.step, "spent_s": clock.spent_s()})  # what the dropped records knew
    try:
        status, error = train_loop(job, state, clock, tracker, signals)
        finish(job, state, clock, tracker, status, error)
    except (
        BaseException
    ) as error:  # out of memory, a full disk: the weights may be half updated, so none are saved
        with contextlib.suppress(OSError):
            write_record(job, state, "failed", f"{type(error).__name__}: {error}")
        raise
    return {"failed": 1, "interrupted": 128 + (signals.received or 0)}.get(status, 0)


def train_loop(
    job: Job, state: RunState, clock: WallClock, tracker: Tracker, signals: StopSignals
) -> tuple[str, NonFiniteError | None]:
    """Steps until they are done, the budget ends, a signal comes or a step fails; the run's status."""
    train = job.cfg.train
    job.model.train()
    if signals.received:  # while loading
        return "interrupted", None
    if state.step == 0:
        state.validation_loss_before = validate(job, state, clock, tracker)
        state.first_step_s = clock.spent_s()
    floor = 1.0 if train.schedule is Schedule.constant else train.min_lr_fraction
    factor = math.inf if state.lr is None else state.lr / train.lr

    def must_end(left: int) -> bool:
        """Whether the step ends here, cut short or as the last one; its update is then made at the floor."""
        if not (clock.must_cut() if left else clock.is_last_step()):
            return False
        state.lr = set_lr(job.optimizer, min(state.lr, train.lr * floor))  # in warm-up it is below
        return True

    with progress_bar(job.steps, state.step, "steps") as advance:
        while state.step < job.steps:
            if signals.received:
                return "interrupted", None
            time_progress = clock.progress(state.first_step_s)
            if not clock.can_start_step():
                # A stall may have eaten the time in which the rate would have fallen: one step at its floor is kept.
                annealed = factor <= floor * (1 + 1e-6)
                if annealed or state.step == 0 or not clock.can_start_last_step():
                    log.warning(
                        "budget: %s spent, stopping at step %d", hours(clock.spent_s()), state.step
                    )
                    return "stopped_by_budget", None
                time_progress = 1.0
            clock.start_lap()
            factor = lr_factor(
                *(
                    state.step,
                    job.steps,
                    train.warmup_steps,
                    train.schedule,
                    train.min_lr_fraction,
                    time_progress,
                )
            )
            state.lr = set_lr(job.optimizer, train.lr * factor)
            examples = job.order.examples_of_step(state.step)
            micro_batches = [
                micro_batch.to(job.device) for micro_batch in pack_for(job.cfg, examples)
            ]
            started_s = clock.spent_s()
            try:
                stats = train_step(
                    job.model, job.optimizer, micro_batches, train.max_grad_norm, must_end
                )
            except NonFiniteError as error:
                return "failed", error
            state.step += 1
            state.tokens += stats.tokens
            state.target_tokens += stats.target_tokens
            state.train_loss = stats.loss
            step_s = clock.spent_s() - started_s
            job.pace.add(stats.tokens, step_s)
            log_step(job, state, clock, tracker, stats, step_s)
            clock.lap()
            planned = sum(micro_batch.target_tokens for micro_batch in micro_batches)
            if stats.target_tokens < planned:
                done = f"{stats.target_tokens} of its {planned} target tokens"
                log.warning(
                    "budget: %s spent, step %d was cut short at %s",
                    hours(clock.spent_s()),
                    state.step,
                    done,
                )
                return "interrupted" if signals.received else "stopped_by_budget", None
            if "bundle" not in clock.costs:
                dry_run_save(job, state, clock)
            if state.step < job.steps:
                periodic_work(job, state, clock, tracker)
            advance(state.step)
    return "finished", None


def periodic_work(job: Job, state: RunState, clock: WallClock, tracker: Tracker) -> None:
    """What is due after a step, and waits where it would take too much of the budget."""
    train, share = job.cfg.train, job.cfg.budget.periodic_work_share
    if state.step % train.validate_every == 0 and clock.affords("validation", share):
        validate(job, state, clock, tracker, periodic=True)
    if (is_best(state) or state.step % train.checkpoint_every == 0) and clock.affords(
        "checkpoint", share
    ):
        try:
            checkpoint(job, state, clock, periodic=True)
        except (
            OSError
        ) as error:  # a full disk may have room again; the checkpoint before is still there
            log.error("no checkpoint at step %d: %s", state.step, error)


def is_best(state: RunState) -> bool:
    """Whether the weights are as they were when the lowest validation loss was taken, and are not kept for it yet."""
    if state.validation_step != state.step or state.validation_loss is None:
        return False
    return state.best_loss is None or state.validation_loss < state.best_loss


def dry_run_save(job: Job, state: RunState, clock: WallClock) -> None:
    """Save all once, into a folder that goes again: what the end will take is then known, and that it works at all."""
    with tempfile.TemporaryDirectory(dir=job.run_dir, prefix=DRY_RUN_PREFIX) as folder:
        started_s = clock.spent_s()
        save_checkpoint(Path(folder) / "checkpoint", job.model, job.optimizer, asdict(state))
        saved_s = clock.spent_s()
        write_bundle(Path(folder) / "bundle", job.cfg, job.model, job.tokenizer)
        clock.cost("checkpoint", saved_s - started_s)
        clock.cost("bundle", clock.spent_s() - saved_s)
    log.info(
        "saving takes %.1f s; %.1f s are kept for the end",
        clock.spent_s() - started_s,
        clock.reserve_s(),
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def log_step(
    job: Job, state: RunState, clock: WallClock, tracker: Tracker, stats: StepStats, step_s: float
) -> None:
    spent_s = clock.spent_s()
    tokens_per_s = stats.tokens / step_s
    log.info(
        "step %d/%d | loss %.3f | lr %.1e | grad %.2f | %s tok/s | %s of %s",
        *(state.step, job.steps, stats.loss, state.lr, stats.grad_norm),
        f"{tokens_per_s / 1000:.1f}k" if tokens_per_s >= 1000 else f"{tokens_per_s:.0f}",
        *(hours(spent_s), hours(clock.limit_s)),
    )
    record = asdict(stats) | {"lr": state.lr, "tokens_per_s": tokens_per_s, "spent_s": spent_s}
    tracker.log({"step": state.step} | record)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f}h" if seconds >= 3600 else f"{seconds / 60:.1f}min"


def validate(
    job: Job, state: RunState, clock: WallClock, tracker: Tracker, periodic: bool = False
) -> float | None:
    """Validation loss of the weights as they are; None where nothing is held out."""
    if not job.validation:
        return None
    started_s = clock.spent_s()
    state.validation_loss, state.validation_step = (
        validation_loss(job.model, job.validation),
        state.step,
    )
    clock.cost("validation", clock.spent_s() - started_s, periodic)
    log.info("step %d/%d | validation loss %.3f", state.step, job.steps, state.validation_loss)
    tracker.log(
        {"step": state.step, "validation_loss": state.validation_loss, "spent_s": clock.spent_s()}
    )
    return state.validation_loss


def checkpoint(job: Job, state: RunState, clock: WallClock, periodic: bool = False) -> None:
    """Save the state; as the best one where the weights are those of the lowest validation loss."""
    state.spent_s = clock.spent_s()
    best = {"best_loss": state.validation_loss, "best_step": state.step} if is_best(state) else {}
    folder, kept = job.run_dir / "checkpoint", job.cfg.train.keep_checkpoints
    path = save_checkpoint(folder, job.model, job.optimizer, asdict(state) | best, kept)
    if best:  # not before it is written
        mark_best(path)
        state.best_loss, state.best_step = state.validation_loss, state.step
    clock.cost("checkpoint", clock.spent_s() - state.spent_s, periodic)


def finish(
    job: Job,
    state: RunState,
    clock: WallClock,
    tracker: Tracker,
    status: str,
    error: NonFiniteError | None,
) -> None:
    """Save what is there, then measure it: whatever ends the process now, nothing trained is lost."""
    checkpoint(job, state, clock)
    write_bundle(job.run_dir / "bundle", job.cfg, job.model, job.tokenizer)
    tracker.log_bundle(job.run_dir / "bundle")
    if status in ("finished", "stopped_by_budget"):
        if clock.fits_at_end("validation"):
            validate(job, state, clock, tracker)
        else:
            log.warning("no time is left for the last validation")
        choose_weights(job, state)
    if error is not None:
        log.error("%s", error)
    tracker.close(wait_s=30.0 if status != "interrupted" else 5.0)
    state.spent_s = clock.spent_s()
    write_record(job, state, status, str(error) if error else None)
    validation_tokens = sum(micro_batch.tokens for micro_batch in job.validation)
    start_s = max(0.0, (state.first_step_s or 0.0) - clock.costs.get("validation", 0.0))
    keep_run(
        job.cfg,
        job.plan,
        job.pace,
        clock.costs,
        validation_tokens,
        start_s,
        memory_used(job.device),
    )
    log.info(
        "%s after %d steps in %s; bundle: %s",
        status,
        state.step,
        hours(state.spent_s),
        job.run_dir / "bundle",
    )


def choose_weights(job: Job, state: RunState) -> None:
    """The bundle holds the last weights, or the best ones, as train.bundle says."""
    if is_best(state):
        mark_best(
            checkpoints(job.run_dir / "checkpoint")[0]
        )  # the last one, saved before its loss was known
        state.best_loss, state.best_step = state.validation_loss, state.step
    if state.best_step in (None, state.step):
        return
    best = f"the lowest validation loss, {state.best_loss:.3f}, was at step {state.best_step}"
    if job.cfg.train.bundle is BundleOf.last:
        log.info("%s; the bundle holds the last weights (train.bundle=best would take those)", best)
    elif load_best(job.run_dir / "checkpoint", job.model) == state.best_step:
        write_bundle(job.run_dir / "bundle", job.cfg, job.model, job.tokenizer)
        log.info("%s; the bundle holds these weights", best)
    else:
        log.warning(
            "%s, but checkpoint/best.pt cannot be read; the bundle holds the last weights", best
        )


def write_record(job: Job, state: RunState, status: str, error: str | None) -> None:
    """run.json: how the run ended, and what its numbers depend on."""
    record = {
        "status": status,
        "error": error,
        "steps_planned": job.steps,
        "limit_s": job.cfg.budget.hours * 3600,
    }
    record |= asdict(state) | {"peak_memory_gib": peak_memory_gib(job.device)}
    record["plan"] = predicted_and_actual(
        job.plan, job.pace, memory_used(job.device), state.spent_s, state.tokens
    )
    record |= {
        "device": device_name(job.device),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    (job.run_dir / "run.json").write_text(json.dumps(record, indent=2) + "\n")
