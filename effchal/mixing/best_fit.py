"""Which examples share a row of tokens."""

import bisect
from collections.abc import Sequence


def capacity_of_row(max_seq_len: int, micro_batch_size: int, packing: bool, divisor: int) -> int:
    """Most tokens of a row; without packing, most examples."""
    size = max_seq_len * micro_batch_size if packing else micro_batch_size
    return max(1, size // divisor)


def best_fit(
    sizes: Sequence[int], max_seq_len: int, micro_batch_size: int, packing: bool, divisor: int = 1
) -> list[list[int]]:
    """Rows of examples, each example once.

    The longest goes first, into the fullest row that still has room.

    Args:
        sizes: tokens of each example.
        micro_batch_size: with packing, a row has at most this many times max_seq_len tokens.
            Without, it has this many examples.
        divisor: of that size. An example that is larger has a row of its own.
    """
    capacity = capacity_of_row(max_seq_len, micro_batch_size, packing, divisor)
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # what each row has left, and its number; rising
    # A stable sort: same examples, same rows.
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = int(sizes[i]) if packing else 1
        at = bisect.bisect_left(free, (size, -1))
        if at == len(free):
            left, row = capacity, len(rows)
            rows.append([])
        else:
            left, row = free.pop(at)
        rows[row].append(i)
        bisect.insort(free, (left - size, row))
    # The largest first: a run that lacks memory fails at once.
    return sorted(rows, key=lambda row: -sum(sizes[i] for i in row))
