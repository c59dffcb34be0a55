"""Caches of what prompts begin with (few-shot examples, a chat so far), kept for the next prompt."""

import bisect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from effchal.decoding.kv_cache import RowCache

BLOCK = 32  # tokens that are kept and forgotten together


@dataclass
class Block:
    number: int
    piece: list[Tensor]  # keys and values of its tokens, as RowCache.piece gives them
    size_bytes: int


class PrefixCache:
    """TiledLinear of ids with their keys and values, each below the block before it; the longest unused leave first.

    A block is known by its parent's number and its own ids, so equal prefixes of different prompts are stored once.

    Args:
        limit_bytes: what all pieces may take together.
    """

    def __init__(self, limit_bytes: float) -> None:
        self.limit_bytes, self.size_bytes = limit_bytes, 0
        # The least recently used first. A parent was always used no earlier than its children, so the first is a leaf.
        self._blocks: OrderedDict[tuple[int, tuple[int, ...]], Block] = OrderedDict()
        self._next_number = 1  # 0 is the root

    def longest(self, ids: list[int]) -> list[list[Tensor]]:
        """Pieces of the longest known beginning of `ids`, one after the other; at least one id is left over.

        The last piece may be the beginning of a block.
        """
        path = self._path(ids[:-1])
        parent, rest = self._last(path), ids[len(path) * BLOCK : -1]
        children = [key for key in self._blocks if key[0] == parent]
        nearest = max(
            children, key=lambda key: common_beginning([rest, list(key[1])]), default=None
        )
        more = common_beginning([rest, list(nearest[1])]) if nearest else 0
        pieces = [self._blocks[key].piece for key in path]
        if more:
            pieces.append([part[:, :more] for part in self._blocks[nearest].piece])
        for key in [nearest] * bool(more) + path[::-1]:
            self._blocks.move_to_end(key)
        return pieces

    def insert(self, ids: list[int], cache: RowCache, row: int) -> None:
        """Keep the whole blocks of `ids`, which a row of a cache begins with."""
        if not self.limit_bytes:
            return
        path = self._path(ids)
        parent = self._last(path)
        for start in range(len(path) * BLOCK, len(ids) - BLOCK + 1, BLOCK):
            piece = cache.piece(row, start, start + BLOCK)
            size_bytes = sum(part.nbytes for part in piece)
            key = (parent, tuple(ids[start : start + BLOCK]))
            self._blocks[key] = Block(self._next_number, piece, size_bytes)
            parent, self._next_number = self._next_number, self._next_number + 1
            self.size_bytes += size_bytes
            path.append(key)
        for key in reversed(path):
            self._blocks.move_to_end(key)
        while self.size_bytes > self.limit_bytes:
            self.size_bytes -= self._blocks.popitem(last=False)[1].size_bytes

    def clear(self) -> None:
        self._blocks.clear()
        self.size_bytes = 0

    def _last(self, path: list[tuple[int, tuple[int, ...]]]) -> int:
        """Number of the block that a path ends with."""
        return self._blocks[path[-1]].number if path else 0

    def _path(self, ids: list[int]) -> list[tuple[int, tuple[int, ...]]]:
        path, parent = [], 0
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = (parent, tuple(ids[start : start + BLOCK]))
            if key not in self._blocks:
                break
            path.append(key)
            parent = self._blocks[key].number
        return path


def common_beginning(prompts: Sequence[list[int]]) -> int:
    """How many ids all prompts begin with."""
    first, last = min(prompts), max(prompts)  # in this order, all others lie between
    lengths = range(1, min(len(first), len(last)) + 1)
    return bisect.bisect_left(lengths, True, key=lambda length: first[:length] != last[:length])
