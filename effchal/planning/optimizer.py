"""Memory of an optimizer's state."""

import torch
from torch import nn

from effchal.config.choices import Optimizer

PAGED = (Optimizer.paged_adamw, Optimizer.paged_adamw8bit)
SMALLEST_8BIT, SMALLEST_PAGED = 4096, 100_000  # elements; bitsandbytes leaves smaller tensors
STATE_BLOCK = 256  # elements of an 8-bit state with one float32 constant


def optimizer_bytes(
    kind: Optimizer, trainable: list[nn.Parameter], device: torch.device
) -> tuple[int, int]:
    """Bytes of the optimizer's state after its first step, and how many of them are paged."""
    total = paged = 0
    moments = 1 if kind is Optimizer.lion8bit else 2
    eight_bit = kind in (Optimizer.adamw8bit, Optimizer.paged_adamw8bit, Optimizer.lion8bit)
    for parameter in trainable:
        size, elements = 4 * moments * parameter.numel(), parameter.numel()
        if eight_bit and elements >= SMALLEST_8BIT:
            size = moments * (elements + 4 * -(-elements // STATE_BLOCK))
        total += size
        if kind in PAGED and device.type == "cuda" and elements >= SMALLEST_PAGED:
            paged += size
    return total, paged
