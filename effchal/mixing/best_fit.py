"""Which examples share a row of tokens."""

import bisect
from collections.abc import Sequence


def best_fit(sizes: Sequence[int], capacity: int, packing: bool) -> list[list[int]]:
    """Rows of examples, each example once.

    The longest goes first, into the fullest row that still has room.

    Args:
        sizes: tokens of each example.
        capacity: most tokens of a row; without packing, most examples. An example that is larger
            has a row of its own.
    """
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
