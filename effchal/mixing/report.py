"""What a data mix holds, as measured: mix.json for programs, mix.md for people.

None stands for what was not measured.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from effchal.config import TrainConfig
from effchal.mixing.packing import first_fit
from effchal.runs import write_atomic

SHOWN = 3  # examples of what a rule drops
SHORT = 160  # characters of their texts
BARS = 16  # of the histogram of lengths
PACKED_STEPS = 1000  # of the first epoch; how full their rows are


@dataclass(frozen=True)
class DroppedExample:
    id: str
    text: str
    detail: str  # why, e.g. what it is a duplicate of


@dataclass
class Dropped:
    """What one rule left out of one source."""

    count: int = 0
    examples: list[DroppedExample] = field(default_factory=list)  # the first ones

    def add(self, example_id: str, text: str, detail: str = "") -> None:
        self.count += 1
        if len(self.examples) < SHOWN:
            self.examples.append(DroppedExample(example_id, short(text), short(detail)))


@dataclass
class SourceReport:
    """One source: where it is from, and what became of its rows."""

    source: str
    path: str
    format: str
    weight: float
    revision: str | None = None
    files: list[str] = field(default_factory=list)
    license: str = "unknown"
    origin: str = "unknown"
    homepage: str | None = None
    sha256: str | None = None
    rows: int | None = None  # read
    filtered: int | None = None  # of them, left out by `where`
    dropped: dict[str, Dropped] = field(default_factory=dict)  # by rule
    examples: int = 0  # kept, those for validation included
    validation: int = 0
    multi_turn: int = 0
    tokens: int | None = None  # of the training examples, each counted once
    target_tokens: int | None = None
    declared_share: float | None = None  # of an epoch, by what the weights count
    share_rows: float | None = None  # of the first epoch's examples
    share_tokens: float | None = None

    @property
    def dropped_count(self) -> int:
        return sum(each.count for each in self.dropped.values())


@dataclass
class Epoch:
    """The first pass over the mix, by the weights."""

    examples: int
    tokens: int
    target_tokens: int
    median_tokens: float  # of an example
    longest_tokens: int
    lengths: list[tuple[int, int]]  # (most tokens, examples): a histogram
    row_tokens: int  # capacity of a packed row
    filled: float | None = None  # share of the rows' capacity; None without packing
    filled_steps: int = 0  # of the epoch, that `filled` is measured over


@dataclass
class MixReport:
    sources: list[SourceReport]
    totals: dict[str, int]
    epoch: Epoch
    steps: int  # planned, by train.epochs and train.max_steps
    epochs: float  # that these steps pass over
    tokenizer: str
    prompt: dict[str, Any]  # the templates
    max_seq_len: int
    seed: int
    sha256: str  # over all that decides about the data

    def write(self, folder: Path) -> None:
        """Leave mix.json and mix.md in a folder."""
        from effchal.mixing.report_page import page

        write_atomic(folder / "mix.json", json.dumps(asdict(self), indent=2) + "\n")
        write_atomic(folder / "mix.md", page(self))


def measure(
    sources: list[SourceReport],
    order: Sequence[int],
    owners: Sequence[int],
    tokens: Sequence[int],
    targets: Sequence[int],
    max_seq_len: int,
    train: TrainConfig,
) -> Epoch:
    """Measure an epoch, and fill in tokens and shares of the sources.

    Args:
        order: the training examples as the epoch draws them, by number.
        owners: of each training example, its position in `sources`.
        tokens: of each training example.
        targets: tokens to learn of each training example.
    """
    once, learned, rows, drawn = Counter[int](), Counter[int](), Counter[int](), Counter[int]()
    for owner, length, target in zip(owners, tokens, targets, strict=True):
        once[owner] += length
        learned[owner] += target
    lengths = [tokens[number] for number in order]
    for number, length in zip(order, lengths, strict=True):
        rows[owners[number]] += 1
        drawn[owners[number]] += length
    for position, source in enumerate(sources):
        source.tokens, source.target_tokens = once[position], learned[position]
        source.share_rows = rows[position] / len(order)
        source.share_tokens = drawn[position] / drawn.total()
    size = 1 if train.micro_batch_size == "auto" else int(train.micro_batch_size)
    epoch = Epoch(
        examples=len(order),
        tokens=drawn.total(),
        target_tokens=sum(targets[number] for number in order),
        median_tokens=median(lengths),
        longest_tokens=max(lengths),
        lengths=histogram(lengths, max_seq_len),
        row_tokens=max_seq_len * size,
    )
    if train.packing:
        epoch.filled, epoch.filled_steps = packed(
            lengths, train.examples_per_step, max_seq_len, size
        )
    return epoch


def histogram(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Examples by length, in bars of equal width up to `most` tokens."""
    width = -(-most // BARS)
    bars = Counter(-(-length // width) for length in lengths)
    return [(bar * width, bars[bar]) for bar in range(1, -(-most // width) + 1)]


def packed(lengths: Sequence[int], per_step: int, max_seq_len: int, size: int) -> tuple[float, int]:
    """How full the packed rows are, and the steps that this was measured over."""
    firsts = range(0, len(lengths), per_step)[:PACKED_STEPS]
    steps = [lengths[first : first + per_step] for first in firsts]
    rows = sum(len(first_fit(list(step), max_seq_len, size, True)) for step in steps)
    return sum(map(sum, steps)) / (rows * max_seq_len * size), len(steps)


def short(text: str) -> str:
    """The beginning of a text in one line."""
    words = " ".join(text[: 2 * SHORT].split())
    return words if len(words) <= SHORT else words[: SHORT - 1] + "…"
