"""Leave out premature logits where one token alone is plausible; pays on a CPU, for DoLa."""

import math

import torch
from torch import Tensor

# Premature rows from which a head product costs a CPU arithmetic rather than reading, so that fewer
# rows are faster. A GPU gets there at some hundred rows; two products would read its head twice.
MANY_ROWS = 32
WORTH_SKIPPING = 0.45  # share of lone positions from which to read the head twice for few rows
MEMORY = 0.9  # weight of earlier positions in that share


class PrematureRows:
    """Says when to compute mature logits first, and where premature ones can then be left out.

    What was decoded before decides the order of products, so it changes no more than rounding.
    """

    def __init__(self, device: torch.device) -> None:
        self._applies = device.type == "cpu"
        self._share = 0.0  # of the last positions that had one token to choose from

    def reset(self) -> None:
        """As if nothing had been decoded, so that the next answer has the same bits."""
        self._share = 0.0

    def may_skip(self, premature_rows: int, lone_share: float) -> bool:
        """Whether positions with one token to choose from may occur here.

        Args:
            premature_rows: layers times positions.
            lone_share: see decoding.contrast.Contrast; 0 for none.
        """
        return self._applies and premature_rows > 0 and lone_share > 0

    def mature_first(self, premature_rows: int) -> bool:
        return premature_rows >= MANY_ROWS or self._share >= WORTH_SKIPPING

    def lone(self, mature: Tensor, lone_share: float) -> list[bool]:
        """For each row of (P, V) mature logits: whether no second token reaches `lone_share`.

        The contrast itself goes by their log-softmax, rounded otherwise, so this asks for a
        little more.
        """
        mature = mature.float()
        floor = mature.amax(-1, keepdim=True) + math.log((1 - 1e-5) * lone_share)
        found: list[bool] = ((mature >= floor).sum(-1) == 1).tolist()
        self._share = MEMORY * self._share + (1 - MEMORY) * sum(found) / len(found)
        return found
