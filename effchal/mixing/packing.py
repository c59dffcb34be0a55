"""Examples -> packed micro-batches in which no example sees another."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from effchal.mixing.sources import Example
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
    """Input of one forward pass: examples one after the other in one row, without padding."""

    input_ids: Tensor  # (1, T) int64
    position_ids: Tensor  # (1, T) int64; they restart with each example
    target_positions: Tensor  # (n,) int64: positions of the row that predict a target
    targets: Tensor  # (n,) int64: the tokens to predict there; already shifted
    lengths: tuple[int, ...]  # tokens of each example
    example_ids: list[str]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def target_tokens(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> "MicroBatch":
        names = ("input_ids", "position_ids", "target_positions", "targets")
        return replace(
            self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names}
        )


def encode_example(
    example: Example, encoder: PromptEncoder, max_seq_len: int, loss_on_prompt: bool
) -> EncodedExample | None:
    """Ids and targets of one example, cut after max_seq_len tokens; None if no target is left.

    The end-of-sequence token after an answer is a target. A cut answer has none: the model
    must not learn to stop there.
    """
    ids, is_answer = encoder.conversation_ids(list(example.turns))
    ids, is_answer, cut = ids[:max_seq_len], is_answer[:max_seq_len], len(ids) > max_seq_len
    # Shifted here and not in the loss: the last token of an example must not predict the next.
    targets = [
        ids[t + 1] if is_answer[t + 1] or loss_on_prompt else IGNORE_INDEX
        for t in range(len(ids) - 1)
    ]
    if all(target == IGNORE_INDEX for target in targets):
        return None
    return EncodedExample(example.id, ids, [*targets, IGNORE_INDEX], cut)


def pack(
    examples: list[EncodedExample], max_seq_len: int, micro_batch_size: int, packing: bool
) -> list[MicroBatch]:
    """Micro-batches that hold all examples once.

    Args:
        micro_batch_size: with packing, a micro-batch has at most this many times max_seq_len
            tokens, filled first fit, longest first. Without, it has this many examples.
    """
    sizes = [len(example.ids) for example in examples]
    rows = first_fit(sizes, max_seq_len, micro_batch_size, packing)
    return [_micro_batch([examples[i] for i in row]) for row in rows]


def first_fit(
    sizes: list[int], max_seq_len: int, micro_batch_size: int, packing: bool
) -> list[list[int]]:
    """Which examples, by their tokens, share a micro-batch."""
    rows: list[list[int]] = []
    free: list[int] = []
    capacity = max_seq_len * micro_batch_size if packing else micro_batch_size
    # A stable sort: same examples, same micro-batches.
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[i] if packing else 1
        fits = next((row for row, left in enumerate(free) if left >= size), None)
        if fits is None:
            rows.append([])
            free.append(capacity)
            fits = len(rows) - 1
        rows[fits].append(i)
        free[fits] -= size
    # The largest first: a run that lacks memory fails at once.
    return sorted(rows, key=lambda row: -sum(sizes[i] for i in row))


def _micro_batch(examples: list[EncodedExample]) -> MicroBatch:
    ids = torch.tensor([[token for example in examples for token in example.ids]])
    lengths = tuple(len(example.ids) for example in examples)
    targets = torch.tensor([target for example in examples for target in example.targets])
    target_positions = (targets != IGNORE_INDEX).nonzero()[:, 0]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ids_of_examples = [example.id for example in examples]
    return MicroBatch(
        ids, positions, target_positions, targets[target_positions], lengths, ids_of_examples
    )
