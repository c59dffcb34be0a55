"""Keys and values of many rows with lengths of their own, in memory that is allocated ahead."""

import itertools
from typing import Any

import torch
from torch import Tensor

from effchal.decoding.transfer import upload

GROW = 64  # tokens; capacity is a multiple


class RowCache:
    """Keys and values of several rows; row r holds tokens 0..lengths[r]-1.

    The backbone calls `update` in each layer. Before it runs, `extend` says which rows get
    how many tokens; afterwards, `commit` makes them part of the rows.
    """

    def __init__(self, zeroed: bool = False) -> None:
        """zeroed: columns that no row has written are zeros in the memory of a single row, too."""
        self._zeroed = zeroed
        self.lengths: list[int] = []
        self._keys: list[Tensor] = []  # a layer each: (rows, heads, capacity, head size)
        self._values: list[Tensor] = []
        self._rows = self._tokens = 0  # that there is memory for
        self._first = self._count = self._new = self._total = 0
        self._equal_lengths = True  # of the rows being extended
        self._starts: Tensor | None = None  # else: where each row's one new token goes
        self._numbers: Tensor | None = None

    @property
    def capacity(self) -> tuple[int, int]:
        """Rows, and tokens of each, that there is memory for."""
        return self._rows, self._tokens

    def resize(self, rows: int, tokens: int) -> None:
        """Exactly this capacity; it must hold what is there."""
        # Without the memory for it, some layers have the new size, and all have this one.
        self._rows, self._tokens = min(rows, self._rows), min(tokens, self._tokens)
        longest = max(self.lengths, default=0)
        for layers in (self._keys, self._values):
            for layer, old in enumerate(layers):
                held = min(len(self.lengths), len(old))  # a row just added has no memory yet
                layers[layer] = self._allocate(old, rows, tokens)
                layers[layer][:held, :, :longest] = old[:held, :, :longest]
        self._rows, self._tokens = rows, tokens

    def add_row(self) -> int:
        """A new, empty row; the last one."""
        self.lengths.append(0)
        return len(self.lengths) - 1

    def fork(self, row: int) -> int:
        """A new row with the content of `row`."""
        new = self.add_row()
        self.copy_row(new, self, row)
        return new

    def drop(self, row: int) -> int:
        """Free a row: the last one moves into its place. Returns the number that this row had."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for part in (*self._keys, *self._values):
                part[row, :, :length] = part[last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        return last

    def shorten(self, row: int, length: int) -> None:
        """Forget what a row holds beyond its first `length` tokens."""
        self.lengths[row] = length

    def keep_rows(self, count: int) -> None:
        """Forget all rows but the first `count`."""
        del self.lengths[count:]

    def wipe(self, row: int) -> None:
        """Overwrite a row's content: a NaN would spoil a sum even where it is masked."""
        for part in (*self._keys, *self._values):
            part[row] = 0.0

    def block(self, row: int, start: int, end: int) -> list[Tensor]:
        """Copies of a row's keys and values, first all keys: (layers, heads, end - start, size).

        Layers of one shape are one tensor, and one copy: mostly all of them.
        """
        parts = [part[row, :, start:end] for part in (*self._keys, *self._values)]
        by_shape = itertools.groupby(parts, key=lambda part: part.shape)
        return [torch.stack(list(some)) for _, some in by_shape]

    def fill(self, row: int, blocks: list[list[Tensor]]) -> None:
        """Fill an empty row with what `block` gave, one after the other."""
        length = sum(block[0].shape[2] for block in blocks)
        self._reserve(len(self.lengths), length)
        parts = [[part for some in block for part in some] for block in blocks]
        keys_and_values = list(zip(*parts, strict=True))  # of each layer: one of each block
        count = len(keys_and_values) // 2
        pairs = zip(keys_and_values[:count], keys_and_values[count:], strict=True)
        for layer, (keys, values) in enumerate(pairs):
            self._make_layer(layer, keys[0][None], values[0][None])
            torch.cat(keys, dim=1, out=self._keys[layer][row, :, :length])
            torch.cat(values, dim=1, out=self._values[layer][row, :, :length])
        self.lengths[row] = length

    def copy_row(self, row: int, other: "RowCache", other_row: int) -> None:
        """Fill an empty row with the content of a row, which may be another cache's."""
        length = other.lengths[other_row]
        self._reserve(len(self.lengths), length)
        for layer, parts in enumerate(zip(other._keys, other._values, strict=True)):
            self._make_layer(layer, *parts)
            for mine, part in zip((self._keys[layer], self._values[layer]), parts, strict=True):
                mine[row, :, :length] = part[other_row, :, :length]
        self.lengths[row] = length

    def extend(self, first: int, count: int, new: int, device: torch.device) -> Tensor:
        """Prepare for `new` tokens in each of `count` rows from `first` on.

        Rows of different lengths take one token at a time.

        Returns:
            their position_ids, (count, new).
        """
        self.expect(first, count, new)
        lengths = self.lengths[first : first + count]
        self._total = max(lengths) + new
        self._reserve(len(self.lengths), self._total)
        self._starts = upload(lengths, device)
        self._numbers = torch.arange(count, device=device)
        self._equal_lengths = min(lengths) == max(lengths)
        return self._starts[:, None] + torch.arange(new, device=device)

    def extend_padded(self, starts: Tensor, columns: int) -> None:
        """Prepare for a token in each of the first rows; some may be memory beyond the last row.

        Args:
            starts: (R,) int64, where each row's token goes. The memory must be there.
            columns: that all attend to.
        """
        self.expect(0, len(starts), 1)
        self._total, self._starts, self._equal_lengths = columns, starts, False
        self._numbers = torch.arange(len(starts), device=starts.device)

    def expect(self, first: int, count: int, new: int) -> None:
        """Say what `commit` makes part of the rows."""
        self._first, self._count, self._new = first, count, new

    def addresses(self) -> tuple[Any, ...]:
        """Where and how large all memory is."""
        return self.capacity, *(part.data_ptr() for part in (*self._keys, *self._values))

    def nbytes(self) -> int:
        """Of all memory that it has."""
        return sum(part.nbytes for part in (*self._keys, *self._values))

    def commit(self) -> None:
        for row in range(self._first, min(self._first + self._count, len(self.lengths))):
            self.lengths[row] += self._new

    def total(self) -> int:
        """Columns that the rows being extended attend to, pad included."""
        return self._total

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by attention: (count, heads, new, size) in, (count, heads, total, size) out."""
        self._make_layer(layer, keys, values)
        return self._put(self._keys[layer], keys), self._put(self._values[layer], values)

    def get_seq_length(self, layer: int = 0) -> int:
        return max(self.lengths, default=0)

    def _make_layer(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if layer == len(self._keys):
            # Both or none: keys without values would fail every later prompt.
            both = [self._allocate(part, self._rows, self._tokens) for part in (keys, values)]
            for parts, made in zip((self._keys, self._values), both, strict=True):
                parts.append(made)

    def _allocate(self, like: Tensor, rows: int, tokens: int) -> Tensor:
        # Zeros: attention multiplies what it masks by 0, and 0 times garbage may be NaN. A single
        # row masks only tokens that are written already, and zeros cost as much as filling it.
        make = like.new_empty if rows == 1 and not self._zeroed else like.new_zeros
        return make(rows, like.shape[1], tokens, like.shape[3])

    def _put(self, part: Tensor, new: Tensor) -> Tensor:
        view = part[self._first : self._first + self._count, :, : self._total]
        if self._equal_lengths:
            view[:, :, self.lengths[self._first] :] = new
        else:
            view[self._numbers, :, self._starts] = new[:, :, 0]
        return view

    def _reserve(self, rows: int, tokens: int) -> None:
        """At least this capacity, grown by halves, so that a long answer grows it seldom."""
        has_rows, has_tokens = self.capacity
        more_rows = max(rows, has_rows * 3 // 2) if rows > has_rows else has_rows
        more_tokens = max(tokens, has_tokens * 3 // 2) if tokens > has_tokens else has_tokens
        if (more_rows, more_tokens) != self.capacity:
            self.resize(more_rows, -(-more_tokens // GROW) * GROW)


def attention_mask(config: Any, visible: Tensor, position_ids: Tensor, columns: Tensor) -> Any:
    """A transformers backbone's attention_mask, for causal and sliding-window layers.

    Args:
        config: text config of the model.
        visible: (B, 1, T, C) bool: which cached column each query may see, windows aside.
        position_ids: (B, T), of the queries.
        columns: (B or 1, C), position of what each column holds.
    """
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = set(getattr(config, "layer_types", None) or [])
    if window is None or columns.shape[-1] <= window or kinds == {"full_attention"}:
        return visible
    near = visible & (columns[:, None, None, :] > position_ids[:, None, :, None] - window)
    return {"full_attention": visible, "sliding_attention": near} if len(kinds) > 1 else near


def additive(mask: Any, dtype: torch.dtype) -> Any:
    """A bool mask, or one by kind of layer, as the library's eager attention adds it."""
    if isinstance(mask, dict):
        return {kind: additive(each, dtype) for kind, each in mask.items()}
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
