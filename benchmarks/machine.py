"""What this machine can do, for the benches to compare with: python benchmarks/machine.py"""

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import print_result

from effchal.model.device import pick_device


def main() -> None:
    print_result({"system": "this machine"} | rates())


def rates() -> dict[str, Any]:
    """Rates of the device that the model would take, and the CPU's name.

    Matrix products in float32 and bfloat16 in GFLOP/s; a memory copy in GB/s, reads and writes.
    """
    result: dict[str, Any] = {}
    device = pick_device()
    for dtype, size in ((torch.float32, 2048), (torch.bfloat16, 1024)):
        size = size if device.type == "cpu" else 8192
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        name = "matmul" if dtype is torch.float32 else "bf16_matmul"
        for unit, clock in (("s", time.perf_counter), ("cpu_s", time.process_time)):
            taken_s = median_s(lambda a=a, b=b: a @ b, clock)
            result[f"{name}_gflop_per_{unit}"] = round(2 * size**3 / taken_s / 1e9, 1)
    source = torch.randn(2**26, device=device)
    target = source.clone()
    result["copy_gb_per_s"] = round(
        2 * source.nbytes / median_s(lambda: target.copy_(source)) / 1e9, 1
    )
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return result | {
        "threads": torch.get_num_threads(),
        "cpu": cpu[1] if cpu else "",
        "torch": torch.__version__,
    }


def median_s(
    work: Callable[[], Any],
    clock: Callable[[], float] = time.perf_counter,
    runs: int = 5,
    warm: int = 1,
) -> float:
    """Median seconds of `runs` calls, after `warm` that are not timed."""
    finish = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times = []
    for _ in range(warm + runs):
        finish()
        begun = clock()
        work()
        finish()
        times.append(clock() - begun)
    return statistics.median(times[warm:])


if __name__ == "__main__":
    main()
