"""What the card is, and what it can do at most."""

import importlib.metadata
import subprocess
from typing import Any

import torch
from machine import median_s

from effchal.runs import git_commit
from gpu_check.measure import DEVICE, GIB, ON_CARD
from gpu_check.session import Session

PACKAGES = ("transformers", "peft", "bitsandbytes", "liger-kernel", "trl", "unsloth")
PACKAGES += ("triton",)


def machine(session: Session) -> None:
    """Card, driver, versions, and measured rates of products and copies."""
    size = 256 if session.tiny else 8192
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    product_s = median_s(lambda: a @ b, runs=10, warm=3)
    source = torch.empty((1 if session.tiny else 4) * size**2, device=DEVICE)
    target = torch.empty_like(source)
    copy_s = median_s(lambda: target.copy_(source), runs=10, warm=3)
    session.rates |= {
        "bf16_tflops": round(2 * size**3 / product_s / 1e12, 2),
        "copy_gb_per_s": round(2 * source.nbytes / copy_s / 1e9, 1),
    }
    about = described_device() | {"commit": git_commit() or "unknown"} | versions()
    session.tell("machine", **about, **session.rates)


def described_device() -> dict[str, Any]:
    if not ON_CARD:
        return {"card": "none: the CPU"}
    card = torch.cuda.get_device_properties(0)
    return {
        "card": card.name,
        "capability": f"{card.major}.{card.minor}",
        "gib": round(card.total_memory / GIB, 2),
        "free_gib": round(torch.cuda.mem_get_info()[0] / GIB, 2),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def versions() -> dict[str, str]:
    found = {"torch": torch.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
