"""A training run: build, loop around the training step, resume, last save."""

import json
import logging
import math
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effchal.budget import WallClock, lr_factor
from effchal.bundle import versions, write_bundle
from effchal.checkpoint import checkpoints, load_checkpoint, save_checkpoint, trainable_parameters
from effchal.choices import Schedule
from effchal.cli import job_age_s, overlay
from effchal.config import Config, ConfigError, load_config, save_config, to_plain
from effchal.data.packing import MicroBatch, TrainingOrder
from effchal.data.prepare import pack_for, prepare_data
from effchal.data.sources import DataError
from effchal.decode.layers import contrast_of
from effchal.fast import prepare_training
from effchal.model import (
    add_adapter,
    gpu_names,
    limit_gpu_memory,
    load_base_model,
    load_tokenizer,
    model_shape,
    pick_device,
)
from effchal.prompts import PromptEncoder
from effchal.rules import hold_rules
from effchal.signals import StopSignals
from effchal.step import NonFiniteError, StepStats, heldout_loss, make_optimizer, train_step
from effchal.track import Tracker, device_name, git_commit, peak_memory_gib, progress_bar, rewind_metrics

log = logging.getLogger("effchal.train")


@dataclass
class RunState:
    """What the loop counts; all of it is in the checkpoint."""

    step: int = 0
    tokens: int = 0
    target_tokens: int = 0
    train_loss: float | None = None  # of the last step
    heldout_before: float | None = None
    heldout_loss: float | None = None  # the latest
    heldout_step: int | None = None  # when it was taken
    lr: float | None = None  # of the last step
    data_sha256: str = ""  # of all examples in their order
    costs: dict[str, float] = field(default_factory=dict)  # seconds that checkpoint, bundle and validation took
    first_step_s: float | None = None  # spent when the first step began
    spent_s: float = 0.0


@dataclass
class Job:
    """What a run trains with; none of it changes but model and optimizer."""

    cfg: Config
    run_dir: Path
    device: torch.device
    tokenizer: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: TrainingOrder
    heldout: list[MicroBatch]
    steps: int  # planned
    data_sha256: str


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
        raise ConfigError("lora=none leaves nothing to train; serve it with python -m effchal.serve lora=none")
    hold_rules(cfg, gpu_names())
    with StopSignals() as signals:
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
    except BaseException as error:  # out of memory, a full disk: the weights may be half updated, so none are saved
        write_record(job, state, "failed", f"{type(error).__name__}: {error}")
        raise
    return {"failed": 1, "interrupted": 128 + (signals.received or 0)}.get(status, 0)


def restore(job: Job) -> RunState:
    """The state of the newest checkpoint, put into model and optimizer; a fresh one where there is none.

    Raises:
        ConfigError: checkpoints that cannot be read, or that were trained on other data.
    """
    folder = job.run_dir / "checkpoint"
    there = checkpoints(folder)
    saved = load_checkpoint(folder, job.model, job.optimizer)
    if saved is None and there:
        raise ConfigError(f"no checkpoint in {folder} can be read; start anew in another folder")
    state = RunState(**(saved or {"data_sha256": job.data_sha256}))
    if state.data_sha256 != job.data_sha256:
        raise DataError(f"the data mix is not the one that {job.run_dir} was trained on; bring its files back")
    return state


def prepare(cfg: Config, run_dir: Path) -> Job:
    """Everything that can be wrong with the input comes up here, before the first step."""
    device = pick_device()
    limit_gpu_memory(cfg.budget.memory_gib, device)
    tokenizer = load_tokenizer(cfg.model)
    shape = model_shape(cfg.model)
    contrast_of(cfg.decoding, shape.num_layers, shape.tied)  # the bundle's decoding, checked before a day is spent
    order, heldout, data_sha256 = prepare_data(cfg, PromptEncoder(tokenizer, cfg.prompt), run_dir)
    model = add_adapter(load_base_model(cfg.model, device), cfg.lora, cfg.train.seed)
    prepare_training(model, cfg.train.activation_checkpointing, cfg.train.compile)
    steps = min(order.steps, cfg.train.max_steps or order.steps)
    if cfg.train.warmup_steps > steps / 5:
        log.warning("train.warmup_steps=%d is more than a fifth of the %d steps", cfg.train.warmup_steps, steps)
    trainable = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    log.info("%s on %s | %s adapter parameters | %d steps", cfg.model.name, device, f"{trainable:,}", steps)
    micro_batches = [micro_batch.to(device) for micro_batch in pack_for(cfg, heldout)]
    optimizer = make_optimizer(model, cfg.train)
    return Job(cfg, run_dir, device, tokenizer, model, optimizer, order, micro_batches, steps, data_sha256)


def train_loop(
    job: Job, state: RunState, clock: WallClock, tracker: Tracker, signals: StopSignals
) -> tuple[str, NonFiniteError | None]:
    """Steps until they are done, the budget ends, a signal comes or a step fails; the run's status."""
    train = job.cfg.train
    job.model.train()
    if signals.received:  # while loading
        return "interrupted", None
    if state.step == 0:
        state.heldout_before = validate(job, state, clock, tracker)
        state.first_step_s = clock.spent_s()
    floor = 1.0 if train.schedule is Schedule.constant else train.min_lr_fraction
    factor = math.inf if state.lr is None else state.lr / train.lr
    with progress_bar(job.steps, state.step, "steps") as advance:
        while state.step < job.steps:
            if signals.received:
                return "interrupted", None
            time_progress = clock.progress(state.first_step_s)
            if not clock.can_start_step():
                # A stall may have eaten the time in which the rate would have fallen: one step at its floor is kept.
                annealed = factor <= floor * (1 + 1e-6)
                if annealed or state.step == 0 or not clock.can_start_last_step():
                    log.warning("budget: %s spent, stopping at step %d", hours(clock.spent_s()), state.step)
                    return "stopped_by_budget", None
                time_progress = 1.0
            clock.start_lap()
            factor = lr_factor(
                *(state.step, job.steps, train.warmup_steps, train.schedule, train.min_lr_fraction, time_progress)
            )
            state.lr = set_lr(job.optimizer, train.lr * factor)
            examples = job.order.examples_of_step(state.step)
            micro_batches = [micro_batch.to(job.device) for micro_batch in pack_for(job.cfg, examples)]
            started_s = clock.spent_s()
            try:
                stats = train_step(job.model, job.optimizer, micro_batches, train.max_grad_norm)
            except NonFiniteError as error:
                return "failed", error
            state.step += 1
            state.tokens += stats.tokens
            state.target_tokens += stats.target_tokens
            state.train_loss = stats.loss
            log_step(job, state, clock, tracker, stats, clock.spent_s() - started_s)
            clock.lap()
            if "bundle" not in clock.costs:
                rehearse_end(job, state, clock)
            if state.step < job.steps:
                side_work(job, state, clock, tracker)
            advance(state.step)
    return "finished", None


def side_work(job: Job, state: RunState, clock: WallClock, tracker: Tracker) -> None:
    """What is due after a step, and waits where it would take too much of the budget."""
    train, share = job.cfg.train, job.cfg.budget.side_work_share
    if state.step % train.validate_every == 0 and clock.affords("validation", share):
        validate(job, state, clock, tracker, on_the_side=True)
    if state.step % train.checkpoint_every == 0 and clock.affords("checkpoint", share):
        checkpoint(job, state, clock, on_the_side=True)


def rehearse_end(job: Job, state: RunState, clock: WallClock) -> None:
    """Save all once, into a folder that goes again: what the end will take is then known, and that it works at all."""
    with tempfile.TemporaryDirectory(dir=job.run_dir, prefix=".rehearsal_") as folder:
        started_s = clock.spent_s()
        save_checkpoint(Path(folder) / "checkpoint", job.model, job.optimizer, asdict(state))
        saved_s = clock.spent_s()
        write_bundle(Path(folder) / "bundle", job.cfg, job.model, job.tokenizer)
        clock.cost("checkpoint", saved_s - started_s)
        clock.cost("bundle", clock.spent_s() - saved_s)
    log.info("saving takes %.1f s; %.1f s are kept for the end", clock.spent_s() - started_s, clock.reserve_s())


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def log_step(job: Job, state: RunState, clock: WallClock, tracker: Tracker, stats: StepStats, step_s: float) -> None:
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


def validate(job: Job, state: RunState, clock: WallClock, tracker: Tracker, on_the_side: bool = False) -> float | None:
    """Held-out loss of the weights as they are; None where nothing is held out."""
    if not job.heldout:
        return None
    started_s = clock.spent_s()
    state.heldout_loss, state.heldout_step = heldout_loss(job.model, job.heldout), state.step
    clock.cost("validation", clock.spent_s() - started_s, on_the_side)
    log.info("step %d/%d | held-out loss %.3f", state.step, job.steps, state.heldout_loss)
    tracker.log({"step": state.step, "heldout_loss": state.heldout_loss, "spent_s": clock.spent_s()})
    return state.heldout_loss


def checkpoint(job: Job, state: RunState, clock: WallClock, on_the_side: bool = False) -> None:
    state.spent_s = clock.spent_s()
    save_checkpoint(job.run_dir / "checkpoint", job.model, job.optimizer, asdict(state))
    clock.cost("checkpoint", clock.spent_s() - state.spent_s, on_the_side)


def finish(
    job: Job, state: RunState, clock: WallClock, tracker: Tracker, status: str, error: NonFiniteError | None
) -> None:
    """Save what is there, then measure it: whatever ends the process now, nothing trained is lost."""
    checkpoint(job, state, clock)
    write_bundle(job.run_dir / "bundle", job.cfg, job.model, job.tokenizer)
    tracker.log_bundle(job.run_dir / "bundle")
    if status in ("finished", "stopped_by_budget"):
        if clock.spent_s() + clock.costs.get("validation", 0.0) < clock.limit_s:
            validate(job, state, clock, tracker)
        else:
            log.warning("no time is left for the last validation")
    if error is not None:
        log.error("%s", error)
    tracker.close(wait_s=30.0 if status != "interrupted" else 5.0)
    state.spent_s = clock.spent_s()
    write_record(job, state, status, str(error) if error else None)
    log.info("%s after %d steps in %s; bundle: %s", status, state.step, hours(state.spent_s), job.run_dir / "bundle")


def write_record(job: Job, state: RunState, status: str, error: str | None) -> None:
    """run.json: how the run ended, and what its numbers depend on."""
    record = {"status": status, "error": error, "steps_planned": job.steps, "limit_s": job.cfg.budget.hours * 3600}
    record |= asdict(state) | {"peak_memory_gib": peak_memory_gib(job.device)}
    record |= {"device": device_name(job.device), "git_commit": git_commit(), "versions": versions()}
    (job.run_dir / "run.json").write_text(json.dumps(record, indent=2) + "\n")
