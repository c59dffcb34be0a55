"""Dropout whose mask is never kept: a seed makes it again in the backward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from effchal.kernels.elementwise import OneKernel, is_compiled

GOLDEN, MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9  # of SplitMix64
BITS = 24  # of a hash that decide


def draw_seed(x: Tensor) -> int:
    """A seed for the masks of one layer's pass over x, drawn from torch's generator of the CPU.

    Checkpoints hold that generator, so a resumed run draws the same seeds. Nothing waits for
    a GPU.
    """
    if type(x) is not Tensor:  # a fake tensor of the planner has no numbers
        return 0
    return int(torch.randint(2**62, ()))


def mask_of(x: Tensor, kept: float, seed: int) -> "Mask | CountedMask":
    """The mask of x, (T, D), and of gradients of its shape. `kept` is a probability."""
    if is_compiled(x):
        return CountedMask(kept, seed)
    return Mask(keep_mask(x, kept, seed))


@dataclass(frozen=True)
class Mask:
    """As numbers: 1 where x stays, else 0."""

    numbers: Tensor

    def times(self, x: Tensor) -> Tensor:
        return x * self.numbers

    def add(self, dx: Tensor, d_dropped: Tensor) -> Tensor:
        """dx plus the gradient behind the mask; dx is overwritten."""
        return dx.addcmul_(d_dropped, self.numbers)


@dataclass(frozen=True)
class CountedMask:
    """Made of a seed and a number's place while it is used, so that no memory holds it."""

    kept: float
    seed: int

    def times(self, x: Tensor) -> Tensor:
        return dropped(x, self._least, self.seed)

    def add(self, dx: Tensor, d_dropped: Tensor) -> Tensor:
        return added_dropped(d_dropped, dx, self._least, self.seed)

    @property
    def _least(self) -> int:
        """Hashes of BITS bits below it stay."""
        return round(self.kept * 2**BITS)


def keep_mask(x: Tensor, probability: float, seed: int) -> Tensor:
    """A new tensor like x: 1 with the probability of being kept, else 0; the same for a seed."""
    generator = None
    if type(x) is Tensor:
        generator = torch.Generator(x.device).manual_seed(seed)
    return torch.empty_like(x).bernoulli_(probability, generator=generator)


@OneKernel
def dropped(x: Tensor, least: int, seed: int) -> Tensor:
    """(T, D): x where it stays, else 0."""
    return torch.where(_stays(x, least, seed), x, 0.0)


@OneKernel
def added_dropped(x: Tensor, added: Tensor, least: int, seed: int) -> Tensor:
    """(T, D): `added`, plus x where it stays."""
    return added + torch.where(_stays(x, least, seed), x, 0.0)


def _stays(x: Tensor, least: int, seed: int) -> Tensor:
    """(T, D) bool, by SplitMix64's hash of each place."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    hashed = _signed(GOLDEN) * (rows[:, None] * 2**20 + columns) + seed
    for shift in (30, 27):
        hashed = (hashed ^ _shifted(hashed, shift)) * _signed(MIX)
    return _shifted(hashed, 64 - BITS) < least


def _shifted(value: Tensor, bits: int) -> Tensor:
    """To the right, as if it had no sign."""
    return (value >> bits) & (2 ** (64 - bits) - 1)


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant
