"""Rows that are extended by the library's own forward pass, each with the library's own cache."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor

from effchal.decoding.kv_cache import RowCache


class LibraryCache(RowCache):
    """The rows of a model whose state is more than keys and values that can be cut.

    A prompt goes through in one chunk, and a row alone. What a row holds can be copied, but
    not shortened.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ids: list[list[int]] = []
        self._states: list[Any] = []  # the library's caches; None where there is none

    def resize(self, rows: int, tokens: int) -> None:
        self._rows, self._tokens = rows, tokens

    def add_row(self) -> int:
        self._ids.append([])
        self._states.append(None)
        return super().add_row()

    def drop(self, row: int) -> int:
        last = super().drop(row)
        for rows in (self._ids, self._states):
            rows[row] = rows[last]
            rows.pop()
        return last

    def shorten(self, row: int, length: int) -> None:
        super().shorten(row, length)
        del self._ids[row][length:]
        self._states[row] = None  # it cannot be cut, so the next step reads the text again

    def keep_rows(self, count: int) -> None:
        super().keep_rows(count)
        del self._ids[count:]
        del self._states[count:]

    def wipe(self, row: int) -> None:
        """Nothing to do: rows never share a sum."""

    def copy_row(self, row: int, other: RowCache, other_row: int) -> None:
        assert isinstance(other, LibraryCache)
        self.lengths[row] = other.lengths[other_row]
        self._ids[row] = list(other._ids[other_row])
        self._states[row] = copy.deepcopy(other._states[other_row])

    def nbytes(self) -> int:
        return sum(part.nbytes for part in tensors_of(self._states))

    def extend_row(
        self, row: int, new: Tensor, switch: int | None, reread: bool
    ) -> tuple[list[int], Any]:
        """What the model must read next for a row to hold `new` (T,) ids, and the state before.

        Args:
            switch: length beyond which the whole text is read anew, once.
            reread: read the whole text each time.
        """
        had, ids = self.lengths[row], new.tolist()
        self._ids[row] += ids
        self.lengths[row] += len(ids)
        crosses = switch is not None and had <= switch < self.lengths[row]
        if reread or crosses or len(ids) > 1 or self._states[row] is None:
            return self._ids[row], None
        return ids, self._states[row]

    def keep(self, row: int, state: Any) -> None:
        self._states[row] = state


def run_row(
    backbone: Any, ids: list[int], state: Any, first: int, keep: bool
) -> tuple[Tensor, Any]:
    """((T, D) states after the final norm, the library's cache) of one row's next ids.

    Args:
        first: position of the first of them.
        keep: whether a cache is wanted.
    """
    device = backbone.get_input_embeddings().weight.device
    known = inspect.signature(backbone.forward).parameters
    name = "cache_params" if "cache_params" in known else "past_key_values"  # Mamba has its own
    options: dict[str, Any] = {name: state}
    if "position_ids" in known:
        options["position_ids"] = torch.arange(first, first + len(ids), device=device)[None]
    output = backbone(input_ids=torch.tensor([ids], device=device), use_cache=keep, **options)
    return output.last_hidden_state[0], getattr(output, name, None) if keep else None


def tensors_of(thing: Any, seen: set[int] | None = None) -> list[Tensor]:
    """All tensors inside a cache of the library, whatever its layers are."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        parts = list(thing)
    else:
        parts = list(getattr(thing, "__dict__", {}).values())
    return [tensor for part in parts for tensor in tensors_of(part, seen)]
