"""A few real steps on this machine, timed for later plans."""

import logging
from pathlib import Path

import torch

from effchal.config import Config, ConfigError
from effchal.mixing.locate import is_local
from effchal.mixing.prepare import PreparedData, prepare_data, select_data
from effchal.model.device import limit_gpu_memory
from effchal.model.tokenizer import ModelError
from effchal.planning.fit import make_plan
from effchal.planning.machine import Machine
from effchal.planning.meta_model import route_of_config
from effchal.planning.outcome import keep_times
from effchal.training.budget import Pace, WallClock
from effchal.training.build import RunState, TrainingSetup, build
from effchal.training.run import Run
from effchal.training.saving import Saver
from effchal.training.step import train_step, validation_loss

log = logging.getLogger(__name__)
VALIDATED = 4  # micro-batches of the validation examples


def known_data(cfg: Config, output_dir: Path) -> PreparedData | None:
    """The data of a run; None if it, or the model, is on a hub that is not asked.

    Also None for a file that is not here, if the config states its size.

    Raises:
        ConfigError: files on this machine that cannot be used, or a model that is not supported.
    """
    try:
        selection = select_data(cfg)
        route_of_config(cfg.model)  # seconds, before the data takes longer
        return prepare_data(cfg, output_dir, selection)
    except ConfigError as error:
        sources = cfg.data_mix.sources.values()
        excused = isinstance(error, ModelError) or all(source.examples for source in sources)
        if all(map(is_local, sources)) and (Path(cfg.model.name).is_dir() or not excused):
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
    data = require_data(cfg, machine, data)
    plan = make_plan(cfg, machine, data)
    if not plan.memory_fits:
        raise ConfigError(
            "plan.probe=true would run out of memory; effchal plan without it says what fits"
        )
    clock = WallClock.of(cfg.budget, age_s)
    limit_gpu_memory(cfg.budget.memory_gib, machine.device)
    setup = build(cfg, data, machine.device)
    start_s = clock.spent_s()
    pace = timed_steps(cfg, setup, clock)
    if pace.tokens_per_s is None:
        raise ConfigError(
            f"plan.probe=true needs more than the {setup.steps} steps of this run to time them"
        )
    validated, begun_s = setup.validation[:VALIDATED], clock.spent_s()
    if validated:
        validation_loss(setup.model, validated)
    clock.add_cost("validation", clock.spent_s() - begun_s)
    run = Run(cfg, output_dir, setup, RunState(step=pace.steps), clock)
    Saver(run).dry_run()
    tokens = sum(micro_batch.tokens for micro_batch in validated)
    keep_times("probe", run, plan, pace, start_s, tokens)
    log.info("probe: %d steps, %.0f tokens/s", pace.steps, pace.tokens_per_s)


def require_data(cfg: Config, machine: Machine, data: PreparedData | None) -> PreparedData:
    """The data; ConfigError if it, or the machine, is not here."""
    if cfg.train.gpus > 1:
        raise ConfigError("plan.probe=true measures one process; leave train.gpus out")
    if machine.device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "plan.probe=true measures this machine, which has no GPU; add plan.device=cpu"
        )
    if machine.device.type == "cuda" and machine.memory_free is None:
        raise ConfigError(
            f"plan.probe=true measures this machine, and plan.device={cfg.plan.device.value} is "
            "not this machine's; leave one of them out"
        )
    if data is None:
        raise ConfigError(
            "plan.probe=true needs the data and the model on this machine; "
            "train once, or fetch them"
        )
    return data


def timed_steps(cfg: Config, setup: TrainingSetup, clock: WallClock) -> Pace:
    """Train for plan.micro_batches micro-batches, and for three steps at least."""
    pace, done = Pace(), 0
    while pace.steps < setup.steps and (done < cfg.plan.micro_batches or pace.steps < 3):
        begun_s = clock.spent_s()
        micro_batches = setup.micro_batches_of(cfg, pace.steps)
        stats = train_step(setup.model, setup.optimizer, micro_batches, cfg.train.max_grad_norm)
        pace.add(stats.tokens, clock.spent_s() - begun_s)
        done += len(micro_batches)
    return pace
