"""The model's head over states of several layers at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effchal.decoding.contrast import Contrast
from effchal.decoding.layer_logits import LayerLogits, Tap
from effchal.kernels.cpu_linear import head_product
from effchal.kernels.premature_rows import PrematureRows


class LMHead:
    """Hidden states -> logits, one product for many layers."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self.module = module
        self.product = head_product(module)  # (rows, D) -> (rows, V)
        self._premature_rows = PrematureRows(device)

    def logits(self, states: Tensor, taps: tuple[Tap, ...]) -> LayerLogits:
        """One head product over the stacked states (K + 1, P, D)."""
        logits = self.product(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return LayerLogits(logits[-1], logits[:-1], taps)

    def logits_to_choose(
        self, states: Tensor, taps: tuple[Tap, ...], contrasts: Sequence[Contrast]
    ) -> list[tuple[list[int], LayerLogits]]:
        """Positions with their logits; premature ones are left out where no contrast needs them.

        Args:
            states: (K + 1, P, D).
            contrasts: that choose the next token, at any of the positions.
        """
        positions, skipping = list(range(states.shape[1])), self._premature_rows
        lone_share = min((each.lone_share for each in contrasts), default=0.0)
        rows = len(taps) * len(positions)
        if not skipping.may_skip(rows, lone_share):
            return [(positions, self.logits(states, taps))]
        if not skipping.mature_first(rows):
            logits = self.logits(states, taps)
            skipping.lone(logits.log_p, lone_share)
            return [(positions, logits)]
        mature = self.product(states[-1])
        lone = skipping.lone(mature, lone_share)
        sure, open_ = ([i for i in positions if lone[i] is each] for each in (True, False))
        parts = [(sure, LayerLogits(mature[sure], None, taps))] if sure else []
        if open_:
            early = self.product(states[:-1, open_].flatten(0, 1)).unflatten(0, (len(taps), -1))
            parts.append((open_, LayerLogits(mature[open_], early, taps)))
        return parts

    def reset(self) -> None:
        """As if nothing had been decoded, so that the next answer has the same bits."""
        self._premature_rows.reset()
