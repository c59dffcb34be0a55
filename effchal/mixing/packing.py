"""Examples -> packed micro-batches in which no example sees another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from effchal.config import Config
from effchal.mixing.best_fit import best_fit
from effchal.mixing.encode import IGNORE_INDEX, EncodedExample


@dataclass
class MicroBatch:
    """Input of one forward pass: examples one after the other in one row, without padding."""

    input_ids: Tensor  # (1, T) int64
    position_ids: Tensor  # (1, T) int64; they restart with each example
    target_positions: Tensor  # (n,) int64: positions of the row that predict a target
    targets: Tensor  # (n,) int64: the tokens to predict there; already shifted
    lengths: tuple[int, ...]  # tokens of each example
    example_ids: list[str]
    is_idle: bool = False  # it counts for nothing: another process still computes one

    @property
    def tokens(self) -> int:
        return 0 if self.is_idle else sum(self.lengths)

    @property
    def target_tokens(self) -> int:
        return 0 if self.is_idle else len(self.targets)

    def halves(self) -> list["MicroBatch"]:
        """Two, each with some of the examples; there are at least two."""
        count = len(self.lengths) // 2
        place = sum(self.lengths[:count])
        target = int((self.target_positions < place).sum())
        first, second = slice(0, count), slice(count, None)
        return [
            MicroBatch(
                self.input_ids[:, tokens],
                self.position_ids[:, tokens],
                self.target_positions[targets] - (tokens.start or 0),
                self.targets[targets],
                self.lengths[examples],
                self.example_ids[examples],
            )
            for examples, tokens, targets in (
                (first, slice(0, place), slice(0, target)),
                (second, slice(place, None), slice(target, None)),
            )
        ]

    def to(self, device: torch.device) -> "MicroBatch":
        names = ("input_ids", "position_ids", "target_positions", "targets")
        return replace(
            self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names}
        )


def pack(examples: Sequence[EncodedExample], capacity: int, packing: bool) -> list[MicroBatch]:
    """Micro-batches that hold all examples once, each a row of best_fit."""
    rows = best_fit([len(example.ids) for example in examples], capacity, packing)
    return [_micro_batch([examples[i] for i in row]) for row in rows]


def pack_for(cfg: Config, examples: Sequence[EncodedExample], divisor: int = 1) -> list[MicroBatch]:
    """Micro-batches of the config's size, which is a number by now, not `auto`.

    Args:
        divisor: of that size.
    """
    return pack(examples, capacity_of(cfg, divisor), cfg.train.packing)


def rows_for(cfg: Config, sizes: Sequence[int], divisor: int = 1) -> list[list[int]]:
    """Which examples of these sizes `pack_for` puts into each micro-batch."""
    return best_fit(sizes, capacity_of(cfg, divisor), cfg.train.packing)


def capacity_of(cfg: Config, divisor: int = 1) -> int:
    """Most tokens of a micro-batch by the config; without packing, most examples."""
    size = int(cfg.train.micro_batch_size)
    most = cfg.model.max_seq_len * size if cfg.train.packing else size
    return max(1, most // divisor)


def idle_like(micro_batch: MicroBatch) -> MicroBatch:
    """A micro-batch of one token, whose loss is to be multiplied by 0."""
    first = micro_batch.input_ids[:, :1]
    position = torch.zeros(1, dtype=torch.int64)
    return MicroBatch(first, position[None], position, first[0], (1,), [], is_idle=True)


def _micro_batch(examples: list[EncodedExample]) -> MicroBatch:
    ids = torch.from_numpy(np.concatenate([example.ids for example in examples]))[None]
    lengths = tuple(len(example.ids) for example in examples)
    targets = torch.from_numpy(np.concatenate([example.targets for example in examples]))
    target_positions = (targets != IGNORE_INDEX).nonzero()[:, 0]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ids_of_examples = [example.id for example in examples]
    return MicroBatch(
        ids, positions, target_positions, targets[target_positions], lengths, ids_of_examples
    )
