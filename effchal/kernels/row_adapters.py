"""Which LoRA adapter each row of a batch goes through, where a model has several."""

from collections.abc import Sequence

import torch
from torch import Tensor

from effchal.model.adapter_names import BASE

Ranks = tuple[tuple[str, int, float], ...]  # adapter, number of ranks, factor for its tokens


class RowAdapters:
    """The choice for the running forward pass, which all layers of a model read."""

    def __init__(self, always: str | None = None) -> None:
        """always: the one adapter of a model that has no other."""
        self._default = () if always is None else (always,)
        self.names: tuple[str, ...] = self._default  # adapters that some token goes through
        self.differ = False  # whether tokens go through different ones, or some through none
        self._chosen: tuple[str, ...] = ()
        self._index: Tensor | None = None  # (N,) int64 of each token's name among all of them
        self._all: list[str] = []
        self._factors: dict[Ranks, Tensor] = {}

    def choose(self, tokens: Sequence[str], device: torch.device) -> None:
        """tokens: an adapter's name or BASE for each of the N tokens; none: as always."""
        if tuple(tokens) == self._chosen:
            return
        self._chosen = tuple(tokens)
        self._all = sorted(set(tokens))
        self._factors.clear()
        self.differ = len(self._all) > 1
        self.names = tuple(name for name in self._all if name != BASE) if tokens else self._default
        if self.differ:
            index = [self._all.index(name) for name in tokens]
            self._index = torch.tensor(index, device=device)

    def factors(self, ranks: Ranks, like: Tensor) -> Tensor:
        """(N, sum of ranks) where tokens differ: 0 in the ranks of an adapter that isn't a token's.

        Args:
            like: has the dtype of the result.
        """
        if ranks not in self._factors:
            columns = [(name, factor) for name, count, factor in ranks for _ in range(count)]
            table = [[f if name == each else 0.0 for name, f in columns] for each in self._all]
            self._factors[ranks] = like.new_tensor(table)[self._index]
        return self._factors[ranks]
