"""Faults of a device: short of memory, which passes, and lost, which stays."""

import gc

import torch

NO_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
)
# After one of these CUDA refuses every call of this process.
LOST = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ECC",
    "invalid program counter",
    "hardware stack error",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device lacked memory, for torch itself or for a library under it."""
    is_torchs = isinstance(error, torch.OutOfMemoryError)
    return is_torchs or any(text in str(error) for text in NO_MEMORY)


def is_device_lost(error: BaseException, device: torch.device) -> bool:
    """Whether the device does nothing more for this process, which then has to end.

    A GPU is asked, which waits for it. It may tell of a fault long after the call that made it.
    """
    if is_out_of_memory(error):
        return False
    if isinstance(error, RuntimeError) and any(text in str(error) for text in LOST):
        return True
    return device.type == "cuda" and not _answers(device)


def _answers(device: torch.device) -> bool:
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError as error:
        return is_out_of_memory(error)
    return True


def release(error: BaseException) -> None:
    """Free what an error keeps alive: its frames, and those of its causes, hold a step's tensors.

    After a lack of memory, torch also gives the memory back that it had kept for itself.
    """
    chain: list[BaseException | None] = [error]
    seen: set[int] = set()
    while chain:
        each = chain.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.with_traceback(None)
            chain += [each.__cause__, each.__context__]
    if is_out_of_memory(error):
        release_memory()


def release_memory() -> None:
    """Collect cycles, and return free memory of torch's allocator to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
