"""Which LoRA adapter each token of a forward pass goes through, where a model has several."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from effchal.model.adapter_names import BASE


class RowAdapters:
    """The choice for the running forward pass, which all layers of a model read.

    The layers take the tokens in an order in which those of one adapter stand together.
    """

    def __init__(self, always: str | None = None) -> None:
        """always: the one adapter of a model that has no other."""
        whole: list[tuple[str, slice | None]] = [] if always is None else [(always, None)]
        self.parts = whole  # adapters with their tokens in the layers' order; None: all
        self.order: Tensor | None = None  # (N,) int64, number of each token; None: as they come
        self.back: Tensor | None = None  # (N,) int64, place of each token in that order
        self._default = whole
        self._chosen: tuple[str, ...] = ()

    def choose(self, tokens: Sequence[str], device: torch.device) -> None:
        """tokens: an adapter's name or BASE for each of the N tokens; none: as always."""
        if tuple(tokens) == self._chosen:
            return
        self._chosen, self.order, self.back = tuple(tokens), None, None
        names = sorted(set(tokens))
        if len(names) < 2:
            self.parts = self._default if not names else [(name, None) for name in names if name]
            return
        order = sorted(range(len(tokens)), key=lambda token: tokens[token])
        if order != list(range(len(tokens))):
            self.order = torch.tensor(order, device=device)
            self.back = torch.argsort(self.order)
        ends = list(itertools.accumulate(tokens.count(name) for name in names))
        spans = [slice(*span) for span in itertools.pairwise([0, *ends])]
        self.parts = [(name, span) for name, span in zip(names, spans, strict=True) if name != BASE]
