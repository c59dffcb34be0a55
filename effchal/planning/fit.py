"""The run plan: does a run fit its memory and its hours?"""

import json
import logging
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from effchal.config import Config, ConfigError
from effchal.config.choices import Parallel
from effchal.mixing.prepare import PreparedData
from effchal.planning.cards import find_card
from effchal.planning.history import Record, kind_of, records_of
from effchal.planning.hours import Hours, measured_hours, public_hours
from effchal.planning.machine import Machine
from effchal.planning.memory import Memory, NotCountableError, allocator_bytes, plan_memory
from effchal.planning.meta_model import describe, route_of_config, shape_config
from effchal.planning.workload import MicroBatchSize, Workload, stated_workload, workload_of
from effchal.runs import write_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Option:
    """Another config, and what it takes."""

    overrides: list[str]
    memory: int  # bytes
    hours: Hours | None


@dataclass(frozen=True)
class Alternative(Option):
    """Another way to keep base model and activations. Four bits change the result."""

    fits: bool
    chosen: bool  # the plan's own way


@dataclass
class Plan:
    """Memory in bytes."""

    model: str
    device: str
    on_gpu: bool
    workload: Workload
    memory: Memory | None  # None: this architecture's code does not run without data
    memory_beside: int  # taken whatever the run does, or held by the allocator
    memory_factor: float  # actual over planned, of earlier runs of the kind
    memory_proven: int | None  # least limit that a run of the kind went through within
    memory_limit: int
    memory_free_now: int | None  # of this machine's card; None: no card, or another one's plan
    hours: Hours | None  # None: nothing is known of the speed, or of the data
    hours_limit: float
    route: dict[str, Any]  # how the model is computed with, see model/route.py
    options: list[Option] = field(default_factory=list)
    alternatives: list[Alternative] = field(default_factory=list)  # by plan.compare

    @property
    def memory_planned(self) -> int | None:
        """Of what a run measures, as computed: a GPU's tensors, or a CPU's whole process."""
        if self.memory is None:
            return None
        return self.memory.peak + (0 if self.on_gpu else self.memory_beside)

    @property
    def memory_expected(self) -> int:
        """The same, corrected by what earlier runs took."""
        return round((self.memory_planned or 0) * self.memory_factor)

    @property
    def memory_needed(self) -> int:
        """Bytes that the whole run needs.

        A run of this kind that went through bounds the correction by what other runs took.
        """
        if self.memory is None:
            return 0
        computed = self.memory.peak + self.memory_beside
        learned = self.memory_expected + (self.memory_beside if self.on_gpu else 0)
        proven = self.memory_proven
        return learned if proven is None else min(learned, max(computed, proven))

    @property
    def memory_fits(self) -> bool:
        return self.memory_needed <= self.memory_limit

    @property
    def hours_fit(self) -> bool:
        return self.hours is None or self.hours.expected <= self.hours_limit

    @property
    def fits(self) -> bool:
        return self.memory_fits and self.hours_fit

    def as_dict(self) -> dict[str, Any]:
        names = ("memory_needed", "memory_fits", "hours_fit", "fits")
        return asdict(self) | {name: getattr(self, name) for name in names}

    def save(self, folder: Path) -> None:
        write_atomic(folder / "plan.json", json.dumps(self.as_dict(), indent=2) + "\n")


def make_plan(cfg: Config, machine: Machine, data: PreparedData | None) -> Plan:
    """Memory and hours of the run that `cfg` asks for.

    Raises:
        ConfigError: no config.json, targets that the model lacks, or a dtype that the card lacks.
    """
    workload = workload_of(cfg, data) if data else stated_workload(cfg)
    memory = memory_of(machine.resolved(cfg), machine.device, workload)
    model = describe(shape_config(cfg.model))
    records = records_of(kind_of(cfg, machine.name, model))
    proven = [each.memory_limit for each in records if each.memory_limit is not None]
    allocator = allocator_bytes(memory, machine.device) if memory else 0
    return Plan(
        model=model,
        device=machine.name,
        on_gpu=machine.device.type == "cuda",
        workload=workload,
        memory=memory,
        memory_beside=machine.memory_beside + allocator,
        memory_factor=memory_factor(records),
        memory_proven=min(proven, default=None),
        memory_limit=limit_of_process(cfg, machine),
        memory_free_now=machine.memory_free,
        hours=hours_of_run(cfg, machine, workload, memory, records),
        hours_limit=cfg.budget.hours,
        route=route_of_config(cfg.model).report(),
    )


def limit_of_process(cfg: Config, machine: Machine) -> int:
    """Bytes that one process of a run may take: a GPU of its own, or a share of the host's."""
    return machine.memory_limit // (cfg.train.gpus if machine.device.type == "cpu" else 1)


def choose_parallel(cfg: Config, machine: Machine, data: PreparedData | None) -> None:
    """Turn train.parallel=auto into data, or into fsdp where only that fits."""
    if cfg.train.parallel is not Parallel.auto:
        return
    cfg.train.parallel = Parallel.data
    if cfg.train.gpus == 1:
        return
    size = 1 if cfg.train.micro_batch_size == "auto" else cfg.train.micro_batch_size
    smallest = replace(cfg, train=replace(cfg.train, micro_batch_size=size))
    if make_plan(smallest, machine, data).memory_fits:
        return
    smallest.train.parallel = Parallel.fsdp
    if make_plan(smallest, machine, data).memory_fits:
        cfg.train.parallel = Parallel.fsdp


def memory_of(cfg: Config, device: torch.device, workload: Workload) -> Memory | None:
    """Memory of a run; None for an architecture whose code looks at its data."""
    try:
        return plan_memory(cfg, device, workload.largest, workload.validation)
    except NotCountableError as error:  # the run itself may be fine
        what = f"{type(error.__cause__).__name__}: {str(error.__cause__)[:300]}"
        log.warning("memory cannot be planned for %s: %s", cfg.model.name, what)
        return None


def hours_of_run(
    cfg: Config, machine: Machine, workload: Workload, memory: Memory | None, records: list[Record]
) -> Hours | None:
    if workload.tokens and records:
        return measured_hours(cfg, workload, records)
    card = find_card(machine.name)
    if workload.tokens and memory and card:
        return public_hours(machine.resolved(cfg), workload, card, memory.cost)
    return None


def memory_factor(records: list[Record]) -> float:
    ratios = [record.memory / record.memory_planned for record in records if record.memory_planned]
    return statistics.median(ratios) if ratios else 1.0


def choose_micro_batch(cfg: Config, machine: Machine, data: PreparedData | None) -> None:
    """Turn train.micro_batch_size=auto into the most rows of model.max_seq_len that fit.

    It becomes 1 if none fits: the plan of the run says so then, and what would fit.
    """
    if cfg.train.micro_batch_size != "auto":
        return

    def planned(size: int) -> Plan:
        changed = replace(cfg, train=replace(cfg.train, micro_batch_size=size))
        return make_plan(changed, machine, data)

    size = 1
    largest: MicroBatchSize | None = None
    if planned(1).memory_fits:
        while size * 2 <= cfg.train.examples_per_step:
            plan = planned(size * 2)
            if (
                plan.memory is None or not plan.memory_fits or plan.workload.largest == largest
            ):  # holds a whole step
                break
            size, largest = size * 2, plan.workload.largest
    cfg.train.micro_batch_size = size


def enforce_plan(plan: Plan, enforce: bool, resumed: bool = False) -> None:
    """Log whether the run fits.

    Args:
        enforce: refuse a run that does not.
        resumed: part of the hours is over; the run ends in time whatever is left to do.

    Raises:
        ConfigError: it does not fit, and `enforce`.
    """
    line = one_line(plan)
    if plan.fits:
        log.info("plan: %s", line)
        return
    if plan.memory_fits and (resumed or (plan.hours and plan.hours.low <= plan.hours_limit)):
        log.warning("the run may not fit, and would end early, annealed: %s", line)
        return
    message = f"the run does not fit: {line}"
    if plan.options:
        options = "; ".join(" ".join(option.overrides) for option in plan.options)
        message += f"; would fit: {options}"
    if enforce:
        raise ConfigError(
            f"{message}; effchal plan shows more, budget.enforce=false tries all the same"
        )
    log.warning(message)


def one_line(plan: Plan) -> str:
    parts = []
    if plan.memory is not None:
        parts.append(f"{gib(plan.memory_needed)} of {gib(plan.memory_limit)} GiB")
    if plan.hours is not None:
        h = plan.hours
        limit = f"{plan.hours_limit:.3g} h"
        parts.append(f"{h.expected:.2g} h ({h.low:.2g} to {h.high:.2g}) of {limit}, by {h.source}")
    return ", ".join(parts) or "nothing is known of its memory and hours"


def gib(size: float) -> str:
    return f"{size / 2**30:.1f}"
