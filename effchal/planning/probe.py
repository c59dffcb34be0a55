"""A few real steps on this machine, timed for later plans."""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from effchal.bundle import write_bundle
from effchal.config import Config, ConfigError
from effchal.mixing.prepare import PreparedData, prepare_data
from effchal.mixing.sources import is_local
from effchal.planning.fit import make_plan
from effchal.planning.history import Record, keep_record, kind_of
from effchal.planning.machine import Machine, memory_used
from effchal.training.budget import Pace
from effchal.training.build import TrainingSetup, build
from effchal.training.checkpoint import save_checkpoint
from effchal.training.step import train_step, validation_loss

log = logging.getLogger(__name__)
VALIDATED = 4  # micro-batches of the validation examples


def known_data(cfg: Config, output_dir: Path) -> PreparedData | None:
    """The data of a run; None if it is on a hub that is not asked.

    Raises:
        ConfigError: files on this machine that cannot be used.
    """
    try:
        return prepare_data(cfg, output_dir)
    except ConfigError as error:
        sources = cfg.data_mix.sources.values()
        if Path(cfg.model.name).is_dir() and all(is_local(source) for source in sources):
            raise
        log.debug("the data is not at hand: %s", error)
        return None


def probe(
    cfg: Config, machine: Machine, data: PreparedData | None, output_dir: Path, age_s: float
) -> None:
    """Train for some micro-batches; keep their times, and nothing else of them.

    Args:
        age_s: of this process; it counts as the start of a run.

    Raises:
        ConfigError: another machine was planned for, the data is not at hand, or the run
            does not fit.
    """
    data = require_data(machine, data)
    plan = make_plan(cfg, machine, data)
    if not plan.memory_fits:
        raise ConfigError(
            "plan.probe=true would run out of memory; "
            "python -m effchal.plan without it says what fits"
        )
    begun = time.monotonic()
    setup = build(cfg, data, machine.device)
    start_s = age_s + time.monotonic() - begun
    pace = timed_steps(cfg, setup)
    if pace.tokens_per_s is None:
        raise ConfigError(
            f"plan.probe=true needs more than the {setup.steps} steps of this run to time them"
        )
    validated = setup.validation[:VALIDATED]
    tokens = sum(micro_batch.tokens for micro_batch in validated)
    validation_s = seconds(lambda: validation_loss(setup.model, validated)) if validated else 0.0

    def save(folder: Path) -> None:
        save_checkpoint(folder / "checkpoint", setup.model, setup.optimizer, {"step": pace.steps})
        write_bundle(folder / "bundle", cfg, setup.model, data.tokenizer)

    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".probe_") as folder:
        save_s = seconds(lambda: save(Path(folder)))
    record = Record(
        source="probe",
        kind=kind_of(cfg, machine.name, plan.model),
        tokens_per_s=pace.tokens_per_s,
        spread=pace.spread,
        start_s=start_s,
        validation_tokens_per_s=tokens / validation_s if validated else None,
        save_s=save_s,
        memory=memory_used(machine.device),
        memory_planned=plan.memory_planned,
    )
    keep_record(record)
    log.info("probe: %d steps, %.0f tokens/s", pace.steps, pace.tokens_per_s)


def require_data(machine: Machine, data: PreparedData | None) -> PreparedData:
    """The data; ConfigError if it, or the machine, is not here."""
    if machine.device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "plan.probe=true measures this machine, which has no GPU; add plan.device=cpu"
        )
    if data is None:
        raise ConfigError(
            "plan.probe=true needs the data and the model on this machine; "
            "train once, or fetch them"
        )
    return data


def timed_steps(cfg: Config, setup: TrainingSetup) -> Pace:
    """Train for plan.micro_batches micro-batches, and for three steps at least."""
    pace, done = Pace(), 0
    while pace.steps < setup.steps and (done < cfg.plan.micro_batches or pace.steps < 3):
        started = time.monotonic()
        micro_batches = setup.micro_batches_of(cfg, pace.steps)
        stats = train_step(setup.model, setup.optimizer, micro_batches, cfg.train.max_grad_norm)
        pace.add(stats.tokens, time.monotonic() - started)
        done += len(micro_batches)
    return pace


def seconds(action: Callable[[], object]) -> float:
    """How long the action takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started
