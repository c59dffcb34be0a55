"""Attention of rows that begin with the same tokens, which are read once; pays on a CPU."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
WORTH_SHARING = 2000  # columns that are not read again, from which two parts are faster than one
MOST_PADDED = 1.5  # of the rows, that one call for all adapters may have with its padding
TRIES = 500  # choices of one row an adapter


@dataclass(frozen=True)
class SharedRead:
    """One call of the kernel for some adapters, each with `width` rows, some of them padding."""

    keys: slice  # one row of each adapter, at equal distances: a view, unlike a list of numbers
    rows: Tensor | None  # (adapters * width,) int64, whose queries; None: all as they come
    width: int


@dataclass(frozen=True)
class SharedReads:
    """Which rows read the common keys of which row. Each adapter makes keys of its own."""

    reads: tuple[SharedRead, ...]
    back: Tensor | None  # (B,) int64, place of each row among those of all reads; None: the same
    spared: int  # rows whose keys are not read

    def are_worth(self, shared: int) -> bool:
        """Whether attention in two parts is faster, for so many columns in common."""
        return shared * self.spared >= WORTH_SHARING


@functools.lru_cache(maxsize=256)
def shared_reads(adapters: tuple[str, ...]) -> SharedReads:
    """adapters: of each row. One call reads for all of them where that needs no copy of keys."""
    groups = [
        [row for row, name in enumerate(adapters) if name == each]
        for each in dict.fromkeys(adapters)
    ]
    padded = max(map(len, groups)) * len(groups)
    firsts = at_equal_distances(groups) if padded <= MOST_PADDED * len(adapters) else None
    if firsts is None:
        calls = [[(group[0], group)] for group in groups]
    else:
        calls = [sorted(zip(firsts, groups, strict=True))]
    reads, placed = [], list[int]()
    for call in calls:
        width = max(len(group) for _, group in call)
        rows = [row for _, group in call for row in group + group[:1] * (width - len(group))]
        keys = _slice_of([first for first, _ in call])
        reads.append(SharedRead(keys, _index(rows, len(adapters)), width))
        placed += rows
    back = [placed.index(row) for row in range(len(adapters))]
    return SharedReads(tuple(reads), _index(back, len(placed)), len(adapters) - len(groups))


def at_equal_distances(groups: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """One number of each group, such that in order they have equal distances, where found."""
    for firsts in itertools.islice(itertools.product(*groups), TRIES):
        if len({b - a for a, b in itertools.pairwise(sorted(firsts))}) < 2:
            return firsts
    return None


def _slice_of(numbers: list[int]) -> slice:
    """What picks numbers at equal distances."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    return slice(numbers[0], numbers[-1] + 1, step)


def _index(chosen: list[int], of: int) -> Tensor | None:
    """None where it would pick all as they come."""
    return None if chosen == list(range(of)) else torch.tensor(chosen)


def _pick(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


def attention_with_shared_prefix(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    shared: int,
    reads: SharedReads,
    scale: float,
) -> Tensor:
    """Attention in two parts: the shared columns, read once an adapter, and each row's own.

    Each part's result is weighed by its share of the softmax's sum, which the kernel gives as a
    logarithm. That kernel is private to torch; checked with 2.13.0.

    Args:
        q: (B, kv heads, Q, size), on a CPU.
        k, v: (B, kv heads, C, size), the same in all rows of an adapter up to column `shared`;
            each token sees at least one of the others.
        mask: (B, 1, Q or 1, C - shared), added to the scores of the other columns, or None.
        shared: columns.
        reads: as `shared_reads` gives them.
        scale: of the scores.

    Returns:
        (B, kv heads, Q, size).
    """
    of_own, log_own = _KERNEL(q, k[:, :, shared:], v[:, :, shared:], attn_mask=mask, scale=scale)
    found = [
        _attend(q, k[read.keys, :, :shared], v[read.keys, :, :shared], read, scale)
        for read in reads.reads
    ]
    of_shared, log_shared = (
        _pick(parts[0] if len(parts) == 1 else torch.cat(parts), reads.back)
        for parts in zip(*found, strict=True)
    )
    return torch.lerp(of_shared, of_own, torch.sigmoid(log_own - log_shared)[..., None])


def _attend(
    q: Tensor, k: Tensor, v: Tensor, read: SharedRead, scale: float
) -> tuple[Tensor, Tensor]:
    """(rows, kv heads, Q, size) and (rows, kv heads, Q), of the rows of a read.

    Args:
        q: (B, kv heads, Q, size).
        k, v: (adapters, kv heads, C, size).
    """
    by_adapter = _pick(q, read.rows).unflatten(0, (-1, read.width))
    together = by_adapter.transpose(1, 2).flatten(2, 3)  # (adapters, kv heads, width * Q, size)
    found, logs = _KERNEL(together, k, v, scale=scale)
    by_row = found.unflatten(2, (read.width, -1)).transpose(1, 2)
    return by_row.flatten(0, 1), logs.unflatten(2, (read.width, -1)).transpose(1, 2).flatten(0, 1)
