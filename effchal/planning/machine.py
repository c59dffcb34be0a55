"""The machine that a plan is made for: its device and its memory."""

from dataclasses import dataclass

import psutil
import torch

from effchal.config import Config, ConfigError
from effchal.model.device import gpu_names, peak_memory_gib
from effchal.runs import device_name

CUDA_CONTEXT = round(0.6 * 2**30)  # bytes: CUDA itself and its libraries' workspaces


@dataclass(frozen=True)
class Machine:
    """This machine, or a card that it lacks."""

    device: torch.device
    name: str
    memory_limit: int  # bytes
    memory_beside: int  # bytes that are taken whatever the run does

    @classmethod
    def here(cls, cfg: Config, device: torch.device) -> "Machine":
        if device.type == "cuda":
            limit = torch.cuda.get_device_properties(device).total_memory
            if cfg.budget.memory_gib is not None:
                limit = min(limit, round(cfg.budget.memory_gib * 2**30))
            return cls(device, torch.cuda.get_device_name(device), limit, CUDA_CONTEXT)
        own = psutil.Process().memory_info().rss
        return cls(device, device_name(device), psutil.virtual_memory().available + own, own)

    @classmethod
    def of_budget(cls, cfg: Config) -> "Machine":
        """The card that the budget is for.

        Raises:
            ConfigError: the budget does not say how large the card is.
        """
        if cfg.budget.memory_gib is None:
            raise ConfigError(
                "plan.device=cuda on a machine without a GPU needs "
                "budget.memory_gib=<GiB of the card>; to plan for this machine's CPU: "
                "plan.device=cpu"
            )
        limit = round(cfg.budget.memory_gib * 2**30)
        return cls(torch.device("cuda"), cfg.budget.gpu or "a GPU", limit, CUDA_CONTEXT)


def planned_machine(cfg: Config) -> Machine:
    """This machine. Without a GPU: the budget's card, unless plan.device=cpu.

    Raises:
        ConfigError: as of_budget.
    """
    wanted = cfg.plan.device.value
    if wanted == "cpu":
        return Machine.here(cfg, torch.device("cpu"))
    if gpu_names():
        return Machine.here(cfg, torch.device("cuda:0"))
    if wanted == "cuda" or cfg.budget.memory_gib is not None:
        return Machine.of_budget(cfg)
    return Machine.here(cfg, torch.device("cpu"))


def memory_used(device: torch.device) -> int:
    """Peak bytes so far of all that a plan counts: allocator and context, or the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) + CUDA_CONTEXT
    return round(peak_memory_gib(device) * 2**30)
