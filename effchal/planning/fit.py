"""Does a run fit, and what would: the plan."""

import copy
import json
import logging
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from effchal.config import Config, ConfigError
from effchal.config.choices import ActivationCheckpointing, Optimizer, Quantization
from effchal.model.device import gpu_names
from effchal.planning.history import CONTEXT, kind_of, records_of
from effchal.planning.hours import Hours, measured_hours, public_hours
from effchal.planning.memory import Memory, allocator_bytes, plan_memory
from effchal.planning.meta_model import describe, shape_config
from effchal.planning.workload import KnownData, Workload, stated_workload
from effchal.tracking import device_name

log = logging.getLogger(__name__)
SHOWN = 3  # configs that would fit
LEAST_SEQ_LEN = 256
FEWER_TARGETS = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Option:
    """Another config that fits."""

    overrides: list[str]
    memory: int
    hours: Hours | None


@dataclass
class Plan:
    model: str
    device: str
    workload: Workload
    memory: Memory | None  # None: this architecture's code does not run without data
    memory_beside: int  # bytes: what is in memory whatever the run does
    memory_factor: float  # of earlier runs of the kind: actual over planned
    memory_limit: int
    hours: Hours | None  # None: nothing is known of the speed, or of the data
    hours_limit: float
    options: list[Option] = field(default_factory=list)

    @property
    def memory_planned(self) -> int | None:
        """As computed, before what earlier runs say."""
        return None if self.memory is None else self.memory.peak + self.memory_beside

    @property
    def memory_needed(self) -> int:
        return round((self.memory_planned or 0) * self.memory_factor)

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
        computed = {
            name: getattr(self, name)
            for name in ("memory_needed", "memory_fits", "hours_fit", "fits")
        }
        return asdict(self) | computed

    def save(self, folder: Path) -> None:
        (folder / "plan.json").write_text(json.dumps(self.as_dict(), indent=2) + "\n")


@dataclass(frozen=True)
class Machine:
    """What a plan is made for; this machine, or a card that it lacks."""

    device: torch.device
    name: str
    memory_limit: int  # bytes
    memory_beside: int

    @classmethod
    def here(cls, cfg: Config, device: torch.device) -> "Machine":
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            limit = (
                total
                if cfg.budget.memory_gib is None
                else min(total, round(cfg.budget.memory_gib * 2**30))
            )
            return cls(device, torch.cuda.get_device_name(device), limit, round(CONTEXT))
        beside = psutil.Process().memory_info().rss
        return cls(device, device_name(device), psutil.virtual_memory().available + beside, beside)

    @classmethod
    def of_budget(cls, cfg: Config) -> "Machine":
        """The card that the budget is for.

        Raises:
            ConfigError: the budget does not say how large it is.
        """
        if cfg.budget.memory_gib is None:
            raise ConfigError(
                "plan.device=cuda on a machine without a GPU needs budget.memory_gib=<GiB of the card>; "
                "to plan for this machine's CPU: plan.device=cpu"
            )
        limit = round(cfg.budget.memory_gib * 2**30)
        return cls(torch.device("cuda"), cfg.budget.gpu or "a GPU", limit, round(CONTEXT))


def make_plan(cfg: Config, machine: Machine, data: KnownData | None, options: bool = True) -> Plan:
    """Memory and hours of the run that `cfg` asks for, and, unless they fit, what would.

    Raises:
        ConfigError: no config.json, or targets that the model lacks.
    """
    workload = data.workload(cfg) if data else stated_workload(cfg)
    shape = shape_config(cfg.model)
    try:
        memory = plan_memory(cfg, machine.device, workload.largest, workload.validation)
    except ConfigError:
        raise
    except Exception as error:  # a model whose code looks at its data; the run itself may be fine
        log.warning(
            "memory cannot be planned for %s: %s: %s",
            cfg.model.name,
            type(error).__name__,
            str(error)[:300],
        )
        memory = None
    model = describe(shape)
    records = records_of(kind_of(cfg, machine.name, model))
    hours = None
    if workload.tokens and records:
        hours = measured_hours(cfg, workload, records)
    elif workload.tokens and memory:
        hours = public_hours(cfg, workload, machine.name, memory.cost)
    ratios = [record.memory / record.memory_planned for record in records if record.memory_planned]
    beside = machine.memory_beside + (allocator_bytes(memory, machine.device) if memory else 0)
    plan = Plan(
        *(
            model,
            machine.name,
            workload,
            memory,
            beside,
            statistics.median(ratios) if ratios else 1.0,
        ),
        *(machine.memory_limit, hours, cfg.budget.hours),
    )
    if options and not plan.fits:
        plan.options = fitting_options(cfg, machine, data, plan)
    return plan


Change = tuple[list[str], Callable[[Config], None]]  # what to type, and what it does


def changes(cfg: Config, plan: Plan, device: torch.device) -> list[Change]:
    """Ways to need less, the least change of the result first; each keeps the examples of a step."""
    found: list[Change] = []

    def add(override: str, group: str, key: str, value: Any) -> None:
        found.append(([override], lambda changed: setattr(getattr(changed, group), key, value)))

    if not plan.memory_fits:
        size = cfg.train.micro_batch_size
        while size > 1:
            size //= 2
            add(f"train.micro_batch_size={size}", "train", "micro_batch_size", size)
        levels = list(ActivationCheckpointing)
        for level in levels[levels.index(cfg.train.activation_checkpointing) + 1 :]:
            add(
                f"train.activation_checkpointing={level.value}",
                "train",
                "activation_checkpointing",
                level,
            )
        length = cfg.model.max_seq_len
        while length // 2 >= LEAST_SEQ_LEN:
            length //= 2
            add(f"model.max_seq_len={length}", "model", "max_seq_len", length)
        smaller = Optimizer.paged_adamw8bit if device.type == "cuda" else Optimizer.adamw8bit
        if cfg.train.optimizer in (Optimizer.adamw, Optimizer.paged_adamw):
            add(f"train.optimizer={smaller.value}", "train", "optimizer", smaller)
        if cfg.model.quantization is None:
            add("model.quantization=nf4", "model", "quantization", Quantization.nf4)
        if cfg.lora is not None and len(cfg.lora.target_modules) > len(FEWER_TARGETS):
            add(
                f"lora.target_modules=[{','.join(FEWER_TARGETS)}]",
                "lora",
                "target_modules",
                FEWER_TARGETS,
            )
    if not plan.hours_fit and plan.hours:
        share = max(0.0, plan.hours_limit - plan.hours.fixed) / (
            plan.hours.expected - plan.hours.fixed
        )
        epochs = int(cfg.train.epochs * share)
        if epochs >= 1 and cfg.train.max_steps is None:
            add(f"train.epochs={epochs}", "train", "epochs", epochs)
        steps = int((plan.workload.steps or 0) * share * 0.95)
        if steps >= 1:
            add(f"train.max_steps={steps}", "train", "max_steps", steps)
    return found


def fitting_options(
    cfg: Config, machine: Machine, data: KnownData | None, plan: Plan
) -> list[Option]:
    """The first single changes that fit; where none does, the shortest row of them."""
    candidates = changes(cfg, plan, machine.device)
    found: list[Option] = []
    for candidate in candidates:
        if option := _try(cfg, machine, data, [candidate]):
            found.append(option)
        if len(found) == SHOWN:
            return found
    if found:
        return found
    strongest: dict[str, Change] = {}  # of each key: its last value goes furthest
    for override, change in candidates:
        strongest[override[0].partition("=")[0]] = (override, change)
    together: list[Change] = []
    for candidate in strongest.values():
        together.append(candidate)
        if len(together) > 1 and (option := _try(cfg, machine, data, together)):
            return [option]
    return []


def _try(
    cfg: Config, machine: Machine, data: KnownData | None, together: list[Change]
) -> Option | None:
    changed = copy.deepcopy(cfg)
    for _, change in together:
        change(changed)
    try:
        plan = make_plan(changed, machine, data, options=False)
    except ConfigError:
        return None
    if not plan.fits or plan.memory is None:
        return None
    return Option(
        [override for overrides, _ in together for override in overrides],
        plan.memory_needed,
        plan.hours,
    )


def largest_micro_batch(cfg: Config, machine: Machine, data: KnownData | None) -> int:
    """The most rows of model.max_seq_len tokens that fit, where train.micro_batch_size=auto.

    Raises:
        ConfigError: not even one fits.
    """

    def planned(size: int) -> Plan:
        changed = copy.deepcopy(cfg)
        changed.train.micro_batch_size = size
        return make_plan(changed, machine, data, options=False)

    if not planned(1).memory_fits:
        return 1  # the plan of the run will say so, and what would fit
    size, largest = 1, None
    while size * 2 <= cfg.train.examples_per_step:
        plan = planned(size * 2)
        if not plan.memory_fits or plan.workload.largest == largest:  # a step has no more to give
            break
        size, largest = size * 2, plan.workload.largest
    return size


def enforce_plan(plan: Plan, enforce: bool, resumed: bool = False) -> None:
    """Say whether the run fits.

    Raises:
        ConfigError: it does not, and budget.enforce=true.
    """
    line = one_line(plan)
    if plan.fits:
        log.info("plan: %s", line)
        return
    if plan.memory_fits and (resumed or (plan.hours and plan.hours.low <= plan.hours_limit)):
        log.warning("the run may not fit, and would end early, annealed: %s", line)
        return
    would = "; ".join(" ".join(option.overrides) for option in plan.options)
    told = f"the run does not fit: {line}" + (f"; would fit: {would}" if would else "")
    if enforce:
        raise ConfigError(
            f"{told}; python -m effchal.plan shows more, budget.enforce=false tries all the same"
        )
    log.warning(told)


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


def planned_machine(cfg: Config) -> Machine:
    """This machine; or, where it has no GPU, the card of the budget, unless plan.device=cpu."""
    wanted = cfg.plan.device.value
    if wanted == "cpu":
        return Machine.here(cfg, torch.device("cpu"))
    if gpu_names():
        return Machine.here(cfg, torch.device("cuda:0"))
    if wanted == "cuda" or cfg.budget.memory_gib is not None:
        return Machine.of_budget(cfg)
    return Machine.here(cfg, torch.device("cpu"))
