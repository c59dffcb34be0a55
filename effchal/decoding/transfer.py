"""Values between host and device, so that the host waits for the device once a step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def upload(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers (a list, or lists of lists) on the device, without a wait for it.

    From pageable memory a copy waits until the device has done all that is queued. Torch does
    not use pinned memory again before the copy is through.
    """
    tensor = torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(tensors: Sequence[Tensor]) -> list[list]:
    """The tensors as lists of float, in one transfer: the wait of a step.

    float64 holds ids and float32 values alike.
    """
    if not tensors:
        return []
    flat = torch.cat([each.flatten().double() for each in tensors]).cpu()
    parts = flat.split([each.numel() for each in tensors])
    pairs = zip(parts, tensors, strict=True)
    return [part.view(each.shape).tolist() for part, each in pairs]
