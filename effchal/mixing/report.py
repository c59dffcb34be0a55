"""What a data mix holds, as measured: mix.json for programs, mix.md for people.

None stands for what was not measured.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effchal.config import Config
from effchal.config.choices import WeighBy
from effchal.mixing.best_fit import best_fit
from effchal.mixing.dropped import SHOWN, Dropped
from effchal.mixing.encoded_source import EncodedSource, Examples
from effchal.mixing.mix import Mix
from effchal.mixing.order import TrainingOrder
from effchal.mixing.select import Selection
from effchal.runs import write_atomic

Ints = npt.NDArray[Any]
BARS = 16  # of the histogram of lengths
PACKED_STEPS = 1000  # of the first epoch; how full their rows are


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
    reported: dict[str, Dropped] = field(default_factory=dict)  # by rule; these rows stay
    examples: int = 0  # kept, those for validation included
    validation: int = 0
    multi_turn: int = 0
    tokens: int | None = None  # of the training examples, each counted once
    target_tokens: int | None = None
    copies: float | None = None  # in an epoch
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
    checked: dict[str, int]  # questions of evaluations that rows were compared with
    not_checked: dict[str, str]  # evaluations that could not be read, and why

    def write(self, folder: Path) -> None:
        """Leave mix.json and mix.md in a folder."""
        from effchal.mixing.report_page import page

        write_atomic(folder / "mix.json", json.dumps(asdict(self), indent=2) + "\n")
        write_atomic(folder / "mix.md", page(self))


def report(
    cfg: Config,
    selection: Selection,
    encoded: list[EncodedSource],
    mix: Mix,
    order: TrainingOrder,
    train: Examples,
    validation: Examples,
    sha256: str,
) -> MixReport:
    """What the mix of a run holds."""
    sources = [_source_report(each) for each in encoded]
    total = sum(mix.weights.values())
    for source, copies in zip(sources, mix.copies(), strict=True):
        source.copies = copies
        if mix.by is not WeighBy.copies:
            source.declared_share = source.weight / total
    drawn = np.array(mix.epoch_order(0))
    sizes = (train.source, train.lengths, train.target_counts)
    totals = {
        "train_examples": len(train),
        "validation_examples": len(validation),
        "train_tokens": int(train.lengths.sum()),
        "validation_tokens": int(validation.lengths.sum()),
        "truncated": train.truncated + validation.truncated,
    }
    return MixReport(
        sources=sources,
        totals=totals,
        epoch=measure(sources, drawn, *sizes, cfg),
        steps=order.steps,
        epochs=order.examples / order.of_epoch,
        tokenizer=cfg.model.name,
        prompt=asdict(cfg.prompt),
        max_seq_len=cfg.model.max_seq_len,
        seed=cfg.data_mix.seed,
        sha256=sha256,
        checked=selection.checked,
        not_checked=selection.not_checked,
    )


def _source_report(encoded: EncodedSource) -> SourceReport:
    selected = encoded.selected
    source, indices = selected.source, selected.indices
    used = indices[np.unique(encoded.file.rows)]
    dropped = dict(selected.dropped)
    for reason, rows in encoded.dropped.items():
        dropped[reason] = counts = Dropped()
        for example in source.examples(indices[rows[:SHOWN]].tolist()):
            counts.add(example)
        counts.count = len(rows)
    cfg = source.cfg
    return SourceReport(
        source=source.name,
        path=cfg.path,
        format=source.meta["format"],
        weight=cfg.weight,
        revision=source.located.revision,
        files=[str(path) for path in source.located.files],
        license=cfg.license,
        origin=cfg.origin.value,
        homepage=cfg.homepage,
        sha256=encoded.sha256,
        rows=source.meta["rows_read"],
        filtered=source.meta["rows_read"] - source.meta["rows_kept"],
        dropped=dropped,
        reported=selected.reported,
        examples=len(used),
        validation=int(selected.is_validation[used].sum()),
        multi_turn=int((source.questions[used] > 1).sum()),
    )


def measure(
    sources: list[SourceReport], order: Ints, owners: Ints, tokens: Ints, targets: Ints, cfg: Config
) -> Epoch:
    """Measure an epoch, and fill in tokens and shares of the sources.

    Args:
        order: the training examples as the epoch draws them, by number.
        owners: of each training example, its position in `sources`.
        tokens: of each training example.
        targets: tokens to learn of each training example.
    """
    train, most, lengths = cfg.train, cfg.model.max_seq_len, tokens[order]
    columns = zip(
        sources,
        np.bincount(owners, tokens, len(sources)),
        np.bincount(owners, targets, len(sources)),
        np.bincount(owners[order], minlength=len(sources)) / len(order),
        np.bincount(owners[order], lengths, len(sources)) / lengths.sum(),
        strict=True,
    )
    for source, once, learned, rows, drawn in columns:
        source.tokens, source.target_tokens = int(once), int(learned)
        source.share_rows, source.share_tokens = float(rows), float(drawn)
    size = 1 if train.micro_batch_size == "auto" else int(train.micro_batch_size)
    epoch = Epoch(
        examples=len(order),
        tokens=int(lengths.sum()),
        target_tokens=int(targets[order].sum()),
        median_tokens=float(np.median(lengths)),
        longest_tokens=int(lengths.max()),
        lengths=histogram(lengths, most),
        row_tokens=most * size,
    )
    if train.packing:
        per_step = train.examples_per_step
        epoch.filled, epoch.filled_steps = packed(lengths.tolist(), per_step, most, size)
    return epoch


def histogram(lengths: Ints, most: int) -> list[tuple[int, int]]:
    """Examples by length, in bars of equal width up to `most` tokens."""
    width = -(-most // BARS)
    bars = np.bincount(-(-lengths // width), minlength=-(-most // width) + 1)
    return [(bar * width, int(count)) for bar, count in enumerate(bars)][1:]


def packed(lengths: Sequence[int], per_step: int, max_seq_len: int, size: int) -> tuple[float, int]:
    """How full the packed rows are, and the steps that this was measured over."""
    firsts = range(0, len(lengths), per_step)[:PACKED_STEPS]
    steps = [lengths[first : first + per_step] for first in firsts]
    rows = sum(len(best_fit(step, max_seq_len, size, True)) for step in steps)
    return sum(map(sum, steps)) / (rows * max_seq_len * size), len(steps)
