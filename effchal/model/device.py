"""The device that the process computes on, and the dtype that suits it."""

import resource

import torch

from effchal.config.choices import Dtype


def pick_device() -> torch.device:
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def gpu_names() -> list[str]:
    """Names of the cards that this process may use."""
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def limit_gpu_memory(memory_gib: float | None, device: torch.device) -> None:
    """Limit this process to memory_gib of a larger card, to try here what must fit there."""
    if memory_gib is not None and device.type == "cuda":
        total_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gib / total_gib), device)


def pick_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The dtype that model.dtype means; auto is bfloat16, or float32 on a CPU without it."""
    if dtype is not Dtype.auto:
        return getattr(torch, dtype.value)
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has bf16 arithmetic. A CPU without is a hundred times slower than in float32."""
    capable = torch.cpu.get_capabilities()
    names = ("avx512_bf16", "amx_bf16", "bf16")
    return device.type != "cpu" or any(capable.get(name) for name in names)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the GPU's allocator so far, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
