"""The device that the process computes on, and the dtype that suits it."""

import functools
import logging
import resource

import torch

from effchal.config import ConfigError
from effchal.config.choices import Dtype

CUDA_CONTEXT = round(0.6 * 2**30)  # bytes: CUDA itself and its libraries' workspaces; assumed
log = logging.getLogger(__name__)


def pick_device() -> torch.device:
    """CUDA's current card, which is the first visible one unless changed; without any, the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # On Hopper and newer, torch tries cuDNN's attention first, which plans each new shape:
    # once a token in decoding.
    torch.backends.cuda.enable_cudnn_sdp(False)
    device = torch.device("cuda", torch.cuda.current_device())
    if torch.cuda.device_count() > 1:
        _tell_choice(device)
    return device


@functools.cache  # once a process
def _tell_choice(device: torch.device) -> None:
    log.info(
        "computing on %s, %s, one of %d visible cards; CUDA_VISIBLE_DEVICES=<number> takes another",
        device,
        torch.cuda.get_device_name(device),
        torch.cuda.device_count(),
    )


def gpu_names() -> list[str]:
    """Names of the cards that this process may use."""
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def limit_gpu_memory(memory_gib: float | None, device: torch.device) -> None:
    """Limit this process to memory_gib of a larger card, to try here what must fit there.

    The allocator gets what CUDA itself leaves of it.
    """
    if memory_gib is None or device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if memory_gib * 2**30 < total:
        share = max(0.0, memory_gib * 2**30 - CUDA_CONTEXT) / total
        torch.cuda.set_per_process_memory_fraction(share, device)


def pick_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The dtype that model.dtype means; auto is bfloat16, or float32 on a device without it."""
    if dtype is not Dtype.auto:
        return getattr(torch, dtype.value)
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has bf16 arithmetic.

    A CPU without is a hundred times slower than in float32. Cards before Ampere emulate it.
    """
    if device.type == "cuda":
        absent = not torch.cuda.is_available()  # a plan for a card that is not here
        return absent or torch.cuda.is_bf16_supported(including_emulation=False)
    capable = torch.cpu.get_capabilities()
    names = ("avx512_bf16", "amx_bf16", "bf16")
    return device.type != "cpu" or any(capable.get(name) for name in names)


def check_dtype(dtype: Dtype, device: torch.device) -> None:
    """Tell what a card without bfloat16 arithmetic computes in; float16 could overflow.

    Raises:
        ConfigError: bfloat16 was asked for there.
    """
    if device.type != "cuda" or multiplies_bfloat16(device):
        return
    name = torch.cuda.get_device_name(device)
    require_bfloat16(dtype, name)
    if dtype is Dtype.auto:
        log.warning(
            "%s has no bfloat16 arithmetic, so model.dtype=auto computes in float32: twice the "
            "memory of what is not in 4 bits",
            name,
        )


def require_bfloat16(dtype: Dtype, card: str) -> None:
    """Raises ConfigError if bfloat16 was asked for on a card that lacks its arithmetic."""
    if dtype is Dtype.bfloat16:
        raise ConfigError(
            f"model.dtype=bfloat16: {card} has no bfloat16 arithmetic; model.dtype=auto computes "
            "in float32 there, and cards since Ampere have it"
        )


def peak_reserved_gib(device: torch.device) -> float | None:
    """Most that the GPU's allocator held so far, holes included; None on a CPU."""
    on_gpu = device.type == "cuda"
    return torch.cuda.max_memory_reserved(device) / 2**30 if on_gpu else None


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the GPU's allocator so far, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
