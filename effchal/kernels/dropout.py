"""Dropout whose mask is never kept: a seed makes it again in the backward pass."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effchal.kernels.elementwise import Compiled, is_compiled

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
        return dropped(x, *places_of(x), self.kept, self.seed)

    def add(self, dx: Tensor, d_dropped: Tensor) -> Tensor:
        return added_dropped(dx, d_dropped, *places_of(dx), self.kept, self.seed)


def places_of(x: Tensor) -> list[Tensor]:
    """The numbers of the rows and of the columns of x, (T,) and (D,) int64."""
    return [_places(size, x.device, getattr(x, "fake_mode", None)) for size in x.shape]


def keep_mask(x: Tensor, probability: float, seed: int) -> Tensor:
    """A new tensor like x: 1 with the probability of being kept, else 0; the same for a seed."""
    generator = None
    if type(x) is Tensor:
        generator = torch.Generator(x.device).manual_seed(seed)
    return torch.empty_like(x).bernoulli_(probability, generator=generator)


@Compiled
def dropped(x: Tensor, rows: Tensor, columns: Tensor, kept: float, seed: int) -> Tensor:
    """(T, D): x where it stays, else 0."""
    return torch.where(_stays(rows, columns, kept, seed), x, 0.0)


@Compiled
def added_dropped(
    dx: Tensor, d_dropped: Tensor, rows: Tensor, columns: Tensor, kept: float, seed: int
) -> Tensor:
    """(T, D): dx, plus d_dropped where it stays."""
    return dx + torch.where(_stays(rows, columns, kept, seed), d_dropped, 0.0)


def _stays(rows: Tensor, columns: Tensor, kept: float, seed: int) -> Tensor:
    """(T, D) bool, by SplitMix64's hash of each place."""
    hashed = _signed(GOLDEN) * (rows[:, None] * 2**20 + columns) + seed
    for shift in (30, 27):
        hashed = (hashed ^ _shifted(hashed, shift)) * _signed(MIX)
    return _shifted(hashed, 64 - BITS) < round(kept * 2**BITS)


@functools.lru_cache(maxsize=32)
def _places(size: int, device: torch.device, fake_mode: Any) -> Tensor:
    """(size,) int64, 0 and up.

    They lie in memory: Inductor's own arithmetic on places overflows (torch 2.13).
    """
    return torch.arange(size, device=device)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """To the right, as if it had no sign."""
    return (value >> bits) & (2 ** (64 - bits) - 1)


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant
