"""Examples -> packed micro-batches in which no example sees another."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from effchal.data.mix import Mix
from effchal.data.sources import Example
from effchal.prompts import PromptEncoder

IGNORE_INDEX = -100


@dataclass(frozen=True)
class EncodedExample:
    id: str
    ids: list[int]  # (T,)
    targets: list[int]  # (T,): the token to predict at each position, or IGNORE_INDEX
    truncated: bool


@dataclass
class MicroBatch:
    """What one forward pass sees. Pad positions have position 0 and no target."""

    input_ids: Tensor  # (B, T) int64
    position_ids: Tensor  # (B, T) int64; a restart separates two examples
    targets: Tensor  # (B, T) int64; already shifted: what position t has to predict
    example_ids: list[str]
    tokens: int  # pad left out
    target_tokens: int

    def to(self, device: torch.device) -> "MicroBatch":
        names = ("input_ids", "position_ids", "targets")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def encode_example(
    example: Example, encoder: PromptEncoder, max_seq_len: int, loss_on_prompt: bool
) -> EncodedExample | None:
    """Ids and targets of one example, cut after max_seq_len tokens; None if no target is left.

    The end-of-sequence token after an answer is a target. A cut answer has none:
    the model must not learn to stop there.
    """
    ids, is_answer = encoder.conversation_ids(list(example.turns))
    ids, is_answer, cut = ids[:max_seq_len], is_answer[:max_seq_len], len(ids) > max_seq_len
    # Shifting here, not in the loss, keeps the last token of one example from predicting the next one.
    targets = [ids[t + 1] if is_answer[t + 1] or loss_on_prompt else IGNORE_INDEX for t in range(len(ids) - 1)]
    if all(target == IGNORE_INDEX for target in targets):
        return None
    return EncodedExample(example.id, ids, [*targets, IGNORE_INDEX], cut)


def pack(
    examples: Iterable[EncodedExample], max_seq_len: int, micro_batch_size: int, packing: bool, pad_id: int
) -> list[MicroBatch]:
    """Micro-batches of micro_batch_size rows of at most max_seq_len tokens that hold all examples once.

    Args:
        packing: several examples in a row (first fit, longest first); false: one row each.
        pad_id: fills rows on the right; never attended to by an example, never a target.
    """
    rows: list[list[EncodedExample]] = []
    free: list[int] = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):  # stable: same examples, same rows
        length = len(example.ids)
        fits = next((i for i, room in enumerate(free) if room >= length), None) if packing else None
        if fits is None:
            rows.append([example])
            free.append(max_seq_len - length)
        else:
            rows[fits].append(example)
            free[fits] -= length
    rows.sort(key=lambda row: -sum(len(e.ids) for e in row))  # rows of like length share a micro-batch
    return [
        _micro_batch(rows[start : start + micro_batch_size], pad_id) for start in range(0, len(rows), micro_batch_size)
    ]


def _micro_batch(rows: list[list[EncodedExample]], pad_id: int) -> MicroBatch:
    length = max(sum(len(e.ids) for e in row) for row in rows)
    input_ids = torch.full((len(rows), length), pad_id)
    position_ids = torch.zeros((len(rows), length), dtype=torch.int64)
    targets = torch.full((len(rows), length), IGNORE_INDEX)
    for b, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + len(example.ids)
            input_ids[b, start:end] = torch.tensor(example.ids)
            position_ids[b, start:end] = torch.arange(end - start)
            targets[b, start:end] = torch.tensor(example.targets)
            start = end
    examples = [example for row in rows for example in row]
    return MicroBatch(
        input_ids,
        position_ids,
        targets,
        example_ids=[example.id for example in examples],
        tokens=sum(len(example.ids) for example in examples),
        target_tokens=int((targets != IGNORE_INDEX).sum()),
    )


class TrainingOrder:
    """Which examples each step learns from: a pure function of the mix, so a position is a step number."""

    def __init__(self, mix: Mix, encoded: list[EncodedExample], examples_per_step: int, epochs: int) -> None:
        """`encoded` lies beside mix.train, one for one."""
        self._mix, self._encoded = mix, encoded
        self._per_step = examples_per_step
        self.examples = len(mix.epoch_order(0)) * epochs
        self.steps = -(-self.examples // examples_per_step)
        self._epoch_order = functools.lru_cache(maxsize=2)(mix.epoch_order)

    def examples_of_step(self, step: int) -> list[EncodedExample]:
        """The step's examples; the last step of the run may have fewer than examples_per_step."""
        first = step * self._per_step
        positions = range(first, min(first + self._per_step, self.examples))
        length = len(self._epoch_order(0))
        return [self._encoded[self._epoch_order(p // length)[p % length]] for p in positions]
