"""A run and its plan: enforced before the run starts, compared with it at the end."""

import json
from pathlib import Path

from effchal.config import Config
from effchal.mixing.prepare import PreparedData
from effchal.model.device import peak_memory_gib, peak_reserved_gib, pick_device
from effchal.model.route import route_of
from effchal.planning.candidates import plan_with_options
from effchal.planning.fit import Plan, choose_micro_batch, choose_parallel, enforce_plan, make_plan
from effchal.planning.history import Record, keep_record, kind_of
from effchal.planning.machine import Machine, memory_used
from effchal.runs import checkpoints, provenance, write_atomic
from effchal.training.budget import Pace
from effchal.training.loop import Trainer
from effchal.training.run import Run
from effchal.training.sharding import check_sharding

FEWEST_STEPS = 5  # timed ones; fewer say little


def plan_run(cfg: Config, data: PreparedData, run_dir: Path) -> Plan:
    """The plan of a run that is about to start, left in its folder as plan.json.

    train.micro_batch_size=auto becomes a number. A resumed run may be short of hours.

    Raises:
        ConfigError: the run cannot fit, and budget.enforce=true.
    """
    machine = Machine.here(cfg, pick_device())
    choose_parallel(cfg, machine, data)
    check_sharding(cfg)
    choose_micro_batch(cfg, machine, data)
    enforce = cfg.budget.enforce
    plan = (plan_with_options if enforce else make_plan)(cfg, machine, data)
    plan.save(run_dir)
    is_short = cfg.sweep.hours is not None  # a rung of a sweep need not do all steps
    enforce_plan(plan, enforce, is_short or bool(checkpoints(run_dir / "checkpoint")))
    return plan


def keep_outcome(plan: Plan, trainer: Trainer, status: str) -> None:
    """Write run.json, and a record for later plans unless the run was too short for one."""
    write_record(plan, trainer, status, trainer.error)
    pace, validation_s = trainer.pace, trainer.clock.costs.get("validation", 0.0)
    start_s = max(0.0, (trainer.state.first_step_s or 0.0) - validation_s)
    if pace.steps > FEWEST_STEPS:
        keep_times("run", trainer.run, plan, pace, start_s, trainer.validator.tokens)


def keep_times(
    source: str, run: Run, plan: Plan, pace: Pace, start_s: float, validation_tokens: int
) -> None:
    """Keep what a probe or a run took, for later plans.

    Args:
        start_s: from the start of the process to the first step.
        validation_tokens: of one validation.
    """
    if pace.tokens_per_s is None:
        return
    costs = run.clock.costs
    validation_s = costs.get("validation", 0.0)
    has_speed = validation_tokens > 0 and validation_s > 0
    record = Record(
        source=source,
        kind=kind_of(run.cfg, plan.device, plan.model),
        tokens_per_s=pace.tokens_per_s,
        spread=pace.spread,
        start_s=start_s,
        validation_tokens_per_s=validation_tokens / validation_s if has_speed else None,
        save_s=costs.get("checkpoint", 0.0) + costs.get("bundle", 0.0),
        memory=memory_used(run.setup.device),
        memory_planned=plan.memory_planned,
        memory_limit=plan.memory_limit if source == "run" else None,
    )
    keep_record(record)


def write_record(plan: Plan, trainer: Trainer, status: str, error: str | None) -> None:
    """run.json, with what the plan said and what it came to."""
    hours, actual = plan.hours, memory_used(trainer.setup.device)
    comparison = {
        "memory_gib": {"predicted": plan.memory_expected / 2**30, "actual": actual / 2**30},
        "hours": {
            "predicted": hours and [hours.low, hours.expected, hours.high],
            "actual": trainer.clock.spent_s() / 3600,
            "by": hours and hours.source,
        },
        "tokens": {"predicted": plan.workload.tokens, "actual": trainer.state.tokens},
        "tokens_per_s": trainer.pace.tokens_per_s,
    }
    loss = trainer.state.final_loss
    record = {
        "status": status,
        "error": error,
        "steps_planned": trainer.steps,
        "limit_s": trainer.clock.limit_s,
        **trainer.state.snapshot(trainer.clock),
        # Of these weights, or not at all: an earlier step's would pass for theirs.
        "validation_loss": loss,
        "validation_step": None if loss is None else trainer.state.step,
        "peak_memory_gib": peak_memory_gib(trainer.setup.device),
        "peak_reserved_gib": peak_reserved_gib(trainer.setup.device),
        "plan": comparison,
        "route": route_of(trainer.setup.model).report(),
        **provenance(trainer.setup.device),
    }
    write_atomic(trainer.run_dir / "run.json", json.dumps(record, indent=2) + "\n")
