"""A few real steps on this device, timed, for the plans to come."""

import logging
import tempfile
import time
from pathlib import Path

import torch

from effchal.bundle import write_bundle
from effchal.config import Config, ConfigError
from effchal.mixing.prepare import pack_for, prepare_data
from effchal.mixing.sources import is_local
from effchal.model.load import load_tokenizer
from effchal.planning.fit import Machine, make_plan
from effchal.planning.history import Pace, Record, keep, kind_of, memory_used
from effchal.planning.workload import KnownData
from effchal.prompts import PromptEncoder
from effchal.training.build import build
from effchal.training.checkpoint import save_checkpoint
from effchal.training.step import train_step, validation_loss

log = logging.getLogger(__name__)
VALIDATED = 4  # micro-batches of the validation examples


def known_data(cfg: Config, output_dir: Path) -> KnownData | None:
    """The data of a run; None where it is on a hub that is not asked.

    Raises:
        ConfigError: files that are here and cannot be used.
    """
    try:
        tokenizer = load_tokenizer(cfg.model)
        order, validation, _ = prepare_data(cfg, PromptEncoder(tokenizer, cfg.prompt), output_dir)
    except ConfigError as error:
        if Path(cfg.model.name).is_dir() and all(
            is_local(source) for source in cfg.data_mix.sources.values()
        ):
            raise
        log.debug("the data is not at hand: %s", error)
        return None
    return KnownData(order, validation)


def probe(
    cfg: Config, machine: Machine, data: KnownData | None, output_dir: Path, age_s: float
) -> None:
    """Train for some micro-batches, and throw the result away but for its times.

    Args:
        age_s: of this process; what it took to come here counts as the start of a run.

    Raises:
        ConfigError: another device was planned for, or the data is not at hand.
    """
    if machine.device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "plan.probe=true measures this machine, which has no GPU; add plan.device=cpu"
        )
    if data is None:
        raise ConfigError(
            "plan.probe=true needs the data and the model on this machine; train once, or fetch them"
        )
    plan = make_plan(cfg, machine, data, options=False)
    if not plan.memory_fits:
        raise ConfigError(
            "plan.probe=true would run out of memory; python -m effchal.plan without it says what fits"
        )
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".probe_") as folder:
        job = build(
            cfg,
            Path(folder),
            machine.device,
            load_tokenizer(cfg.model),
            data.order,
            data.validation,
            "",
        )
        start_s = age_s + time.monotonic() - begun
        pace, done, step = Pace(), 0, 0
        while step < job.steps and (done < cfg.plan.micro_batches or step < 3):
            started = time.monotonic()
            micro_batches = [
                mb.to(job.device) for mb in pack_for(cfg, job.order.examples_of_step(step))
            ]
            stats = train_step(job.model, job.optimizer, micro_batches, cfg.train.max_grad_norm)
            pace.add(stats.tokens, time.monotonic() - started)
            done, step = done + len(micro_batches), step + 1
        if pace.tokens_per_s is None:
            raise ConfigError(
                f"plan.probe=true needs more than the {job.steps} steps of this run to time them"
            )
        validated = job.validation[:VALIDATED]
        started = time.monotonic()
        if validated:
            validation_loss(job.model, validated)
        validation_s = time.monotonic() - started
        started = time.monotonic()
        save_checkpoint(Path(folder) / "checkpoint", job.model, job.optimizer, {"step": step})
        write_bundle(Path(folder) / "bundle", cfg, job.model, job.tokenizer)
        save_s = time.monotonic() - started
    tokens = sum(micro_batch.tokens for micro_batch in validated)
    kind = kind_of(cfg, machine.name, plan.model)
    per_s = tokens / validation_s if validated else None
    memory = memory_used(machine.device)
    record = Record(
        "probe",
        kind,
        pace.tokens_per_s,
        pace.spread,
        start_s,
        per_s,
        save_s,
        memory,
        plan.memory_planned,
    )
    keep(record)
    log.info("probe: %d steps, %.0f tokens/s", step, pace.tokens_per_s)
