"""Which LoRA adapter each row of a batch goes through, where a model has several."""

from collections.abc import Sequence

import torch
from torch import Tensor

from effchal.model.adapter_names import BASE


class RowAdapters:
    """The choice for the running forward pass, which all layers of a model read."""

    def __init__(self, always: str | None = None) -> None:
        """always: the one adapter of a model that has no other."""
        whole: list[tuple[str, Tensor | None]] = [] if always is None else [(always, None)]
        self.parts = whole  # adapters with a bool (N, 1) of the tokens that are others', or None
        self._default = whole
        self._chosen: tuple[str, ...] = ()

    def choose(self, tokens: Sequence[str], device: torch.device) -> None:
        """tokens: an adapter's name or BASE for each of the N tokens; none: as always."""
        if tuple(tokens) == self._chosen:
            return
        self._chosen = tuple(tokens)
        names = sorted(set(tokens))
        if len(names) < 2:
            self.parts = self._default if not names else [(name, None) for name in names if name]
            return
        index = torch.tensor([names.index(each) for each in tokens], device=device)[:, None]
        self.parts = [(name, index != i) for i, name in enumerate(names) if name != BASE]
