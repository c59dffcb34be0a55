"""The machine that a plan is made for: its device and its memory."""

import dataclasses
from dataclasses import dataclass

import psutil
import torch

from effchal.config import Config, ConfigError
from effchal.config.choices import Dtype, PlanDevice
from effchal.model.device import (
    CUDA_CONTEXT,
    gpu_names,
    multiplies_bfloat16,
    peak_memory_gib,
    pick_device,
    require_bfloat16,
)
from effchal.model.host_memory import free_host_memory
from effchal.planning.cards import CARDS, Card, find_card
from effchal.runs import device_name


@dataclass(frozen=True)
class Machine:
    """This machine, or a card that it lacks."""

    device: torch.device
    name: str
    memory_limit: int  # bytes
    memory_beside: int  # bytes that are taken whatever the run does
    memory_free: int | None = None  # bytes of this machine's card that a run could take now
    bfloat16: bool = True  # a card's arithmetic

    @classmethod
    def here(cls, cfg: Config, device: torch.device) -> "Machine":
        if device.type == "cuda":
            free = free_memory(device)
            limit = free
            if cfg.budget.memory_gib is not None:
                limit = min(limit, round(cfg.budget.memory_gib * 2**30))
            name = torch.cuda.get_device_name(device)
            return cls(device, name, limit, CUDA_CONTEXT, free, multiplies_bfloat16(device))
        own = psutil.Process().memory_info().rss
        return cls(device, device_name(device), free_host_memory() + own, own)

    @classmethod
    def of_card(cls, card: Card, memory_gib: float | None = None) -> "Machine":
        """A card that need not be here; `memory_gib` of it, or all."""
        limit = round((memory_gib or card.memory_gib) * 2**30)
        bfloat16 = card.bfloat16
        return cls(torch.device("cuda"), card.name, limit, CUDA_CONTEXT, bfloat16=bfloat16)

    @classmethod
    def of_budget(cls, cfg: Config) -> "Machine":
        """The card that the budget is for.

        Raises:
            ConfigError: the budget does not say how large the card is.
        """
        card, memory_gib = find_card(cfg.budget.gpu), cfg.budget.memory_gib
        if card is not None:
            return cls.of_card(card, memory_gib)
        if memory_gib is None:
            raise ConfigError(
                "plan.device=cuda on a machine without a GPU needs "
                "budget.memory_gib=<GiB of the card>; to plan for this machine's CPU: "
                "plan.device=cpu"
            )
        limit = round(memory_gib * 2**30)
        return cls(torch.device("cuda"), cfg.budget.gpu or "a GPU", limit, CUDA_CONTEXT)

    def resolved(self, cfg: Config) -> Config:
        """The config with the dtype that model.dtype=auto means on this card.

        Raises:
            ConfigError: bfloat16 was asked for on a card without its arithmetic.
        """
        if self.device.type != "cuda":
            return cfg
        if not self.bfloat16:
            require_bfloat16(cfg.model.dtype, self.name)
        if cfg.model.dtype is not Dtype.auto:
            return cfg
        dtype = Dtype.bfloat16 if self.bfloat16 else Dtype.float32
        return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype))


def free_memory(device: torch.device) -> int:
    """Bytes of a card that this process has or could take now; a desktop takes some.

    What CUDA itself takes of it counts as free here, since a plan counts it as needed.
    """
    free, total = torch.cuda.mem_get_info(device)
    return min(total, free + torch.cuda.memory_reserved(device) + CUDA_CONTEXT)


def planned_machine(cfg: Config) -> Machine:
    """The machine that plan.device names. auto: this one, or without a GPU the budget's card.

    Raises:
        ConfigError: as of_budget.
    """
    wanted = cfg.plan.device
    if wanted in CARDS:
        return Machine.of_card(CARDS[wanted])
    if wanted is PlanDevice.cpu:
        return Machine.here(cfg, torch.device("cpu"))
    if gpu_names():
        return Machine.here(cfg, pick_device())
    if wanted is PlanDevice.cuda or cfg.budget.memory_gib is not None:
        return Machine.of_budget(cfg)
    return Machine.here(cfg, torch.device("cpu"))


def memory_used(device: torch.device) -> int:
    """Peak bytes so far: of a GPU's tensors, or of the whole process on a CPU.

    Not what the allocator has reserved: it keeps more on a card where nobody else wants it.
    """
    return round(peak_memory_gib(device) * 2**30)
