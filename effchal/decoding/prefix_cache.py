"""Keys and values of what prompts begin with (examples, a chat so far), kept for the next one."""

import bisect
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from effchal.decoding.kv_cache import RowCache
from effchal.model.adapter_names import BASE

BLOCK = 32  # tokens that are kept and forgotten together
Key = tuple[int | str, tuple[int, ...]]  # number of the parent block, and own ids


@dataclass
class KVBlock:
    number: int
    tensors: list[Tensor]  # keys and values of its tokens, as RowCache.block gives them
    size_bytes: int


class PrefixCache:
    """A tree of blocks of ids with their keys and values; the least recently used leave first.

    A block is known by its parent's number and its own ids, so equal prefixes of different prompts
    are stored once. The first block's parent is the adapter that the prompt was read with.

    Args:
        limit_bytes: of all blocks together.
    """

    def __init__(self, limit_bytes: float) -> None:
        self.limit_bytes, self.size_bytes = limit_bytes, 0
        # Least recently used first: a leaf, as a parent is used no earlier than its children.
        self._blocks: OrderedDict[Key, KVBlock] = OrderedDict()
        self._next_number = 1

    def longest(self, ids: list[int], adapter: str = BASE) -> list[list[Tensor]]:
        """Blocks of the longest known prefix of `ids`, in order; at least one id is left over.

        The last one may be the beginning of a stored block.
        """
        path = self._path(ids[:-1], adapter)
        blocks = [self._blocks[key].tensors for key in path]
        parent, rest = self._last(path, adapter), ids[len(path) * BLOCK : -1]
        children = [key for key in self._blocks if key[0] == parent]
        if children:
            shared, nearest = max(
                ((common_beginning([rest, list(key[1])]), key) for key in children),
                key=lambda pair: pair[0],
            )
            if shared:
                blocks.append([part[:, :, :shared] for part in self._blocks[nearest].tensors])
                self._blocks.move_to_end(nearest)
        for key in reversed(path):
            self._blocks.move_to_end(key)
        return blocks

    def would_spare(self, ids: list[int], others: Iterable[list[int]], adapter: str = BASE) -> bool:
        """Whether one of the others, once inserted, knows a block more of `ids` than now."""
        common = max((common_beginning([ids, other]) for other in others), default=0)
        if common < BLOCK or not self.limit_bytes:
            return False
        known = sum(block[0].shape[2] for block in self.longest(ids, adapter))
        return common >= known + BLOCK

    def insert(self, ids: list[int], cache: RowCache, row: int, adapter: str = BASE) -> None:
        """Keep the whole blocks of `ids`, which a row of a cache begins with."""
        if not self.limit_bytes:
            return
        path = self._path(ids, adapter)
        parent = self._last(path, adapter)
        for start in range(len(path) * BLOCK, len(ids) - BLOCK + 1, BLOCK):
            tensors = cache.block(row, start, start + BLOCK)
            size_bytes = sum(part.nbytes for part in tensors)
            key = (parent, tuple(ids[start : start + BLOCK]))
            self._blocks[key] = KVBlock(self._next_number, tensors, size_bytes)
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

    def _last(self, path: list[Key], adapter: str) -> int | str:
        """Number of the block that a path ends with."""
        return self._blocks[path[-1]].number if path else adapter

    def _path(self, ids: list[int], adapter: str) -> list[Key]:
        """Keys of the known whole blocks that `ids` begin with."""
        path: list[Key] = []
        parent: int | str = adapter
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
