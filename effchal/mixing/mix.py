"""How often each training example comes in an epoch, and in which order."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from effchal.config.choices import WeighBy

Ints = npt.NDArray[Any]


@dataclass
class Mix:
    """The training examples as numbers: `source` and `tokens` of each."""

    source: Ints  # (n,) position in `weights`
    tokens: Ints  # (n,)
    weights: dict[str, float]  # by source name
    by: WeighBy
    seed: int

    def copies(self) -> list[float]:
        """How many copies of each source an epoch has.

        By copies, the weights say it. By rows or tokens, they are shares of an epoch that is as
        large as all sources together.
        """
        weights = list(self.weights.values())
        if self.by is WeighBy.copies:
            return weights
        of_example = self.tokens if self.by is WeighBy.tokens else np.ones_like(self.tokens)
        sizes = np.bincount(self.source, of_example, len(weights))
        total = sizes.sum() / sum(w for w, size in zip(weights, sizes, strict=True) if size)
        return [w * total / size if size else 0.0 for w, size in zip(weights, sizes, strict=True)]

    def epoch_order(self, epoch: int) -> list[int]:
        """Indices of examples in the order of one epoch; the same for the same seed and epoch.

        2.5 copies are two of each example of the source, and a third one of a half that is drawn
        anew in each epoch.
        """
        draw = random.Random(f"{self.seed}:{epoch}")
        order: list[int] = []
        for number, copies in enumerate(self.copies()):
            indices = np.flatnonzero(self.source == number).tolist()
            order += indices * int(copies)
            count = round(copies % 1 * len(indices))
            if self.by is WeighBy.tokens:
                order += self._spread(indices, count, draw)
            else:
                order += draw.sample(indices, count)
        draw.shuffle(order)
        return order

    def _spread(self, indices: list[int], count: int, draw: random.Random) -> list[int]:
        """Some of the examples, of all lengths evenly, so that any epoch has as many tokens.

        At equal distances, so that none is drawn twice.
        """
        shuffled = draw.sample(indices, len(indices))  # which of equal length comes first
        by_length = sorted(shuffled, key=lambda i: self.tokens[i])
        step, begin = len(indices) / max(1, count), draw.random()
        return [by_length[int((k + begin) * step)] for k in range(count)]
