"""Candidate overrides for a run that does not fit: which of them make it fit."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from effchal.config import Config, ConfigError
from effchal.config.choices import ActivationCheckpointing, Optimizer, Parallel, Quantization
from effchal.config.training import ALL_LINEAR
from effchal.mixing.prepare import PreparedData
from effchal.planning.fit import Alternative, Option, Plan, make_plan
from effchal.planning.machine import Machine

SHOWN = 3  # configs that would fit
LEAST_SEQ_LEN = 256
FEWER_TARGETS = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Override:
    group: str
    key: str
    value: Any

    def __str__(self) -> str:
        """As it is typed on the command line."""
        value = self.value.value if isinstance(self.value, Enum) else self.value
        value = "null" if value is None else value
        text = f"[{','.join(value)}]" if isinstance(value, list) else value
        return f"{self.group}.{self.key}={text}"

    def apply(self, cfg: Config) -> None:
        setattr(getattr(cfg, self.group), self.key, self.value)


def plan_with_options(cfg: Config, machine: Machine, data: PreparedData | None) -> Plan:
    """The plan of a run and, if it does not fit, overrides that would make it fit.

    The first single overrides that fit; if there is none, the shortest combination.

    Raises:
        ConfigError: no config.json, or targets that the model lacks.
    """
    plan = make_plan(cfg, machine, data)
    if plan.fits:
        return plan
    candidates = [*less_memory(cfg, plan, machine.device), *less_time(cfg, plan)]
    for candidate in candidates:
        if option := option_of(cfg, machine, data, [candidate]):
            plan.options.append(option)
        if len(plan.options) == SHOWN:
            return plan
    if plan.options:
        return plan
    strongest = {(override.group, override.key): override for override in candidates}
    together: list[Override] = []
    for override in strongest.values():
        together.append(override)
        if len(together) > 1 and (option := option_of(cfg, machine, data, together)):
            plan.options.append(option)
            break
    return plan


def alternatives(cfg: Config, machine: Machine, data: PreparedData | None) -> list[Alternative]:
    """Ways to keep base model and activations: those that fit first, the fastest of them first."""
    found = []
    for quantization in (None, Quantization.nf4):
        for level in ActivationCheckpointing:
            changed = copy.deepcopy(cfg)
            overrides = [
                Override("model", "quantization", quantization),
                Override("train", "activation_checkpointing", level),
            ]
            for override in overrides:
                override.apply(changed)
            plan = make_plan(changed, machine, data)
            if plan.memory is not None:
                texts = [str(override) for override in overrides]
                chosen = changed == cfg
                found.append(Alternative(texts, plan.memory_needed, plan.hours, plan.fits, chosen))
    return sorted(found, key=lambda each: (not each.fits, hours_expected(each), each.memory))


def hours_expected(way: Alternative) -> float:
    return way.hours.expected if way.hours else 0.0


def less_memory(cfg: Config, plan: Plan, device: torch.device) -> Iterator[Override]:
    """Candidate overrides that reduce memory, least harmful first.

    None changes which examples a step learns from.
    """
    if plan.memory_fits:
        return
    train, model = cfg.train, cfg.model
    if train.gpus > 1 and train.parallel is not Parallel.fsdp:
        yield Override("train", "parallel", Parallel.fsdp)
    size = int(train.micro_batch_size)
    while size > 1:
        size //= 2
        yield Override("train", "micro_batch_size", size)
    levels = list(ActivationCheckpointing)
    for level in levels[levels.index(train.activation_checkpointing) + 1 :]:
        yield Override("train", "activation_checkpointing", level)
    length = model.max_seq_len
    while length // 2 >= LEAST_SEQ_LEN:
        length //= 2
        yield Override("model", "max_seq_len", length)
    if train.optimizer in (Optimizer.adamw, Optimizer.paged_adamw):
        on_gpu = device.type == "cuda"
        smaller = Optimizer.paged_adamw8bit if on_gpu else Optimizer.adamw8bit
        yield Override("train", "optimizer", smaller)
    if model.quantization is None:
        yield Override("model", "quantization", Quantization.nf4)
    targets = cfg.lora and cfg.lora.target_modules
    if targets and (targets == ALL_LINEAR or len(targets) > len(FEWER_TARGETS)):
        yield Override("lora", "target_modules", FEWER_TARGETS)


def less_time(cfg: Config, plan: Plan) -> Iterator[Override]:
    """Candidate overrides that reduce hours: fewer epochs, or fewer steps."""
    if plan.hours is None or plan.hours_fit:
        return
    fixed = plan.hours.fixed
    share = max(0.0, plan.hours_limit - fixed) / (plan.hours.expected - fixed)
    tenths = int(cfg.train.epochs * share * 10)
    if tenths and cfg.train.max_steps is None:
        yield Override("train", "epochs", tenths / 10 if tenths < 10 else tenths // 10)
    steps = int((plan.workload.steps or 0) * share * 0.95)
    if steps >= 1:
        yield Override("train", "max_steps", steps)


def option_of(
    cfg: Config, machine: Machine, data: PreparedData | None, overrides: list[Override]
) -> Option | None:
    """What these overrides together come to; None if that does not fit either."""
    changed = copy.deepcopy(cfg)
    for override in overrides:
        override.apply(changed)
    try:
        plan = make_plan(changed, machine, data)
    except ConfigError:
        return None
    if not plan.fits or plan.memory is None:
        return None
    return Option([str(override) for override in overrides], plan.memory_needed, plan.hours)
