"""Which examples each step learns from."""

import functools

from effchal.mixing.mix import Mix
from effchal.mixing.encode import EncodedExample


class TrainingOrder:
    """Which examples each step learns from: a pure function of the mix and the step number."""

    def __init__(
        self, mix: Mix, encoded: list[EncodedExample], examples_per_step: int, epochs: int
    ) -> None:
        """`encoded` holds the examples of mix.train, in the same order."""
        self._mix, self._encoded = mix, encoded
        self._per_step, self.epochs = examples_per_step, epochs
        self.examples = len(mix.epoch_order(0)) * epochs
        self.steps = -(-self.examples // examples_per_step)
        self._epoch_order = functools.lru_cache(maxsize=2)(mix.epoch_order)

    def examples_of_step(self, step: int) -> list[EncodedExample]:
        """The step's examples; the last step of the run may have fewer than examples_per_step."""
        first = step * self._per_step
        positions = range(first, min(first + self._per_step, self.examples))
        length = len(self._epoch_order(0))
        return [self._encoded[self._epoch_order(p // length)[p % length]] for p in positions]
