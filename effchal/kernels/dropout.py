"""Dropout whose mask is never kept: a seed makes it again in the backward pass."""

import torch
from torch import Tensor


def draw_seed(x: Tensor) -> int:
    """A seed for the masks of one layer's pass over x, drawn from torch's generator of the CPU.

    Checkpoints hold that generator, so a resumed run draws the same seeds. Nothing waits for
    a GPU.
    """
    if type(x) is not Tensor:  # a fake tensor of the planner has no numbers
        return 0
    return int(torch.randint(2**62, ()))


def keep_mask(x: Tensor, probability: float, seed: int) -> Tensor:
    """A new tensor like x: 1 with the probability of being kept, else 0; the same for a seed."""
    generator = None
    if type(x) is Tensor:
        generator = torch.Generator(x.device).manual_seed(seed)
    return torch.empty_like(x).bernoulli_(probability, generator=generator)
