"""Seconds, memory, waits and kernels of a piece of work."""

import contextlib
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from effchal.model.device import pick_device

GIB = 2**30
DEVICE = pick_device()
ON_CARD = DEVICE.type == "cuda"
TOP_KERNELS = 12  # shown by a profile


def finish() -> None:
    """Wait until the card has done all that was queued."""
    if ON_CARD:
        torch.cuda.synchronize()


def free_memory() -> None:
    """Give back what nobody holds, on a card."""
    if ON_CARD:
        gc.collect()
        torch.cuda.empty_cache()


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """GiB at the peak of what runs within, as the allocator counts them; empty on a CPU."""
    found: dict[str, float] = {}
    free_memory()
    if ON_CARD:
        torch.cuda.reset_peak_memory_stats()
    yield found
    if ON_CARD:
        finish()
        found["allocated_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        found["reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)


def limit_memory(gib: float) -> None:
    """Let this process take no more than a smaller card has."""
    if ON_CARD:
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib / total))


def host_waits(work: Callable[[], Any]) -> int | None:
    """How often the host waited for the card, as torch tells; None on a CPU."""
    if not ON_CARD:
        work()
        return None
    finish()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def attention_kernels(work: Callable[[], Any]) -> list[str]:
    """Names of the attention operations that run within `work`; of the math kernel, too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        work()
        finish()
    names = {event.key.removeprefix("aten::") for event in profiler.key_averages()}
    marks = ("_scaled_dot_product_", "flash_attention", "varlen", "efficient_attention")
    found = sorted(name for name in names if any(mark in name for mark in marks))
    return [name for name in found if "backward" not in name.lower()]


def profile(work: Callable[[], Any]) -> dict[str, Any]:
    """Time by kernel: the largest, how many were launched, and the card's share of the time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] * ON_CARD
    finish()
    begun = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        finish()
    wall_ms = 1000 * (time.perf_counter() - begun)
    field = "self_device_time_total" if ON_CARD else "self_cpu_time_total"
    spent = [
        (getattr(event, field) / 1000, event.count, event.key)
        for event in profiler.key_averages()
        if not ON_CARD or event.device_type == torch.autograd.DeviceType.CUDA
    ]
    busy_ms = sum(ms for ms, _, _ in spent)
    largest = sorted(spent, reverse=True)[:TOP_KERNELS]
    return {
        "wall_ms": round(wall_ms, 2),
        "kernels_ms": round(busy_ms, 2),
        "launches": sum(count for _, count, _ in spent),
        "largest": [[round(ms, 3), count, name[:80]] for ms, count, name in largest],
    }
