"""How long the texts are that a model is tried with, and how far two results may be apart."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Relative differences that rounding explains: of states, and of logits from the same states.
# Gemma 3n's own two kernels differ by 0.002, in 16 bits others by 0.01 to 0.03. An example
# that sees another one differs by 0.3 and more.
ROUNDING, ROUNDING_OF_HEAD = 5e-3, 1e-5
ROUNDING_OF_LAYERS = 1e-4  # the same layers in float32, computed in another order
ROUNDING_16_BITS, ROUNDING_OF_HEAD_16_BITS = 0.1, 0.01


FAR = 2**17  # positions; layers are tried so far into a text, too, where their scales may change


@dataclass(frozen=True)
class Sizes:
    """Tokens of the two texts that are tried, and how many of them come one by one."""

    long: int
    short: int
    steps: int
    thorough: bool  # also taps, scoring, and texts of several lengths
    chunks: tuple[int, int] = (11, 5)  # in which the two prompts are read


COPY = Sizes(long=34, short=20, steps=14, thorough=True)  # beyond its windows and its switch
ITSELF = Sizes(long=16, short=9, steps=2, thorough=False)  # after its copy


def within(sizes: Sizes, limit: int) -> Sizes:
    """Sizes of texts that a model with so many positions takes."""
    if sizes.long <= limit:
        return sizes
    return replace(sizes, long=limit, short=limit // 2, steps=limit // 4)


def random_texts(sizes: Sizes, vocabulary: int) -> list[list[int]]:
    """Token ids of the long text and of the short one, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(1, vocabulary, (size,), generator=generator).tolist()
        for size in (sizes.long, sizes.short)
    ]


def furthest(off: Tensor, expected: Tensor, text_of: list[int] | None, exact: bool) -> float:
    """Largest relative difference of vectors; in 16 bits the largest median of a text.

    Half of a text's vectors may be off in 16 bits: a mixture of experts may choose others.

    Args:
        off: (N, D) differences.
        expected: (..., D), N vectors.
        text_of: which text each of the vectors is of; by default, they are of one.
        exact: whether the arithmetic is float32.
    """
    size = expected.float().flatten(0, -2).norm(dim=-1).clamp_min(1e-6)
    share = off.norm(dim=-1) / size
    numbers = torch.tensor(text_of or [0] * len(share), device=share.device)
    texts = [share[numbers == number] for number in numbers.unique()]
    return max(float(each.max() if exact else each.median()) for each in texts)
