"""Which examples each step learns from."""

import functools
from collections.abc import Sequence

from effchal.config import TrainConfig
from effchal.mixing.encode import EncodedExample
from effchal.mixing.mix import Mix


def examples_of_run(train: TrainConfig, of_epoch: int) -> int:
    """How many examples a run learns from, repeats counted; train.max_steps rules over epochs.

    Args:
        of_epoch: how many of them are one epoch.
    """
    if of_epoch and train.max_steps is not None:
        return train.max_steps * train.examples_per_step
    return max(round(of_epoch * train.epochs), min(of_epoch, 1))


class TrainingOrder:
    """Which examples each step learns from: a pure function of the mix and the step number."""

    def __init__(self, mix: Mix, encoded: Sequence[EncodedExample], train: TrainConfig) -> None:
        """`encoded` holds the examples of mix.train, in the same order; each is read when due."""
        self.encoded, self._per_step = encoded, train.examples_per_step
        self.epoch_order = functools.lru_cache(maxsize=2)(mix.epoch_order)
        self.of_epoch = len(self.epoch_order(0))
        self.examples = examples_of_run(train, self.of_epoch)
        self.steps = -(-self.examples // self._per_step)

    def epochs_after(self, steps: int) -> float:
        """Passes over the mix that so many steps are."""
        return min(steps * self._per_step, self.examples) / self.of_epoch

    def indices_of_step(self, step: int) -> list[int]:
        """Indices into `encoded`; the last step of the run may have fewer examples."""
        first = step * self._per_step
        positions = range(first, min(first + self._per_step, self.examples))
        by_epoch = (divmod(position, self.of_epoch) for position in positions)
        return [self.epoch_order(epoch)[place] for epoch, place in by_epoch]

    def examples_of_step(self, step: int) -> list[EncodedExample]:
        return [self.encoded[index] for index in self.indices_of_step(step)]
