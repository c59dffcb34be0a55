"""A run beside its plan: held before it starts, compared when it is over."""

from pathlib import Path
from typing import Any

import torch

from effchal.config import Config
from effchal.planning.fit import Machine, Plan, enforce_plan, largest_micro_batch, make_plan
from effchal.planning.history import Pace, Record, keep, kind_of
from effchal.planning.workload import KnownData

FEWEST_STEPS = 5  # timed ones; fewer say little


def plan_run(
    cfg: Config, device: torch.device, data: KnownData, run_dir: Path, resumed: bool
) -> Plan:
    """The plan of a run that is about to start, left in its folder; train.micro_batch_size=auto becomes a number.

    Args:
        resumed: part of its hours are over, and it will end in time whatever is left to do.

    Raises:
        ConfigError: the run cannot fit, and budget.enforce=true.
    """
    machine = Machine.here(cfg, device)
    if cfg.train.micro_batch_size == "auto":
        cfg.train.micro_batch_size = largest_micro_batch(cfg, machine, data)
    plan = make_plan(cfg, machine, data, options=cfg.budget.enforce)
    plan.save(run_dir)
    enforce_plan(plan, cfg.budget.enforce, resumed)
    return plan


def predicted_and_actual(
    plan: Plan, pace: Pace, memory: int, spent_s: float, tokens: int
) -> dict[str, Any]:
    """For run.json: what the plan said, and what it was; memory in bytes."""
    h = plan.hours
    return {
        "memory_gib": {"predicted": plan.memory_needed / 2**30, "actual": memory / 2**30},
        "hours": {
            "predicted": h and [h.low, h.expected, h.high],
            "actual": spent_s / 3600,
            "by": h and h.source,
        },
        "tokens": {"predicted": plan.workload.tokens, "actual": tokens},
        "tokens_per_s": pace.tokens_per_s,
    }


def keep_run(
    cfg: Config,
    plan: Plan,
    pace: Pace,
    costs: dict[str, float],
    validation_tokens: int,
    start_s: float,
    memory: int,
) -> None:
    """Leave a record for the plans to come, unless the run was too short to say anything.

    Args:
        costs: seconds of a validation, a checkpoint, a bundle.
        memory: bytes at the peak.
    """
    if pace.steps <= FEWEST_STEPS or pace.tokens_per_s is None:
        return
    validating = (
        validation_tokens / costs["validation"]
        if validation_tokens and costs.get("validation")
        else None
    )
    kind = kind_of(cfg, plan.device, plan.model)
    save_s = costs.get("checkpoint", 0.0) + costs.get("bundle", 0.0)
    keep(
        Record(
            "run",
            kind,
            pace.tokens_per_s,
            pace.spread,
            start_s,
            validating,
            save_s,
            memory,
            plan.memory_planned,
        )
    )
