"""Hooks that keep the states of single layers while a model runs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from effchal.decoding.layer_logits import Tap


@contextlib.contextmanager
def tapped(layers: Any, taps: tuple[Tap, ...], at: Tensor, kept: list[Tensor]) -> Iterator[None]:
    """Copy the inputs of tapped layers into one buffer; its last row stays free.

    Args:
        layers: the model's.
        at: (P,) int64, positions of the flattened (B * T).
        kept: gets one tensor (K + 1, P, D).
    """

    def copy_into(rows: list[int]):
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            hidden = (args[0] if args else kwargs["hidden_states"]).flatten(0, 1)  # (B * T, D)
            if not kept:
                kept.append(hidden.new_empty(len(taps) + 1, len(at), hidden.shape[-1]))
            for row in rows:
                torch.index_select(hidden, 0, at, out=kept[0][row])

        return hook

    by_layer: dict[int, list[int]] = {}
    for row, (layer, _) in enumerate(taps):
        by_layer.setdefault(layer, []).append(row)
    hooks = [
        layers[layer].register_forward_pre_hook(copy_into(rows), with_kwargs=True)
        for layer, rows in by_layer.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
