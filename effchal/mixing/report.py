"""What a data mix holds, as measured: mix.json for programs, mix.md for people."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effchal.config import Config, to_plain
from effchal.config.choices import WeighBy
from effchal.mixing.best_fit import best_fit
from effchal.mixing.dropped import SHOWN, Dropped
from effchal.mixing.encode import NO_ANSWER
from effchal.mixing.encoded_source import EncodedSource, Examples
from effchal.mixing.mix import Mix
from effchal.mixing.order import TrainingOrder
from effchal.mixing.select import Selection
from effchal.runs import write_atomic

Ints = npt.NDArray[Any]
BARS = 16  # of the histogram of lengths
PACKED_STEPS = 1000  # of the first epoch; how full their rows are
DETAILS = {NO_ANSWER: "no answer begins within model.max_seq_len tokens"}
TOO_LONG = "more than model.max_seq_len tokens"


@dataclass
class SourceReport:
    """One source: where it is from, and what became of its rows."""

    source: str
    path: str
    files: list[str]
    revision: str | None
    format: str
    license: str
    origin: str
    homepage: str | None
    sha256: str  # of its token ids, and of which are learned
    rows: int  # read = filtered + dropped + kept
    filtered: int  # left out by `where`
    dropped: dict[str, Dropped]  # left out by rule
    reported: dict[str, Dropped]  # found by rule, and kept
    kept: int
    multi_turn: int  # rows kept that ask more than once
    examples: int  # that the rows became, those for validation included
    validation: int
    weight: float
    copies: float  # in an epoch
    declared_share: float  # of an epoch: of its tokens with data_mix.by=tokens, else of its rows
    share_rows: float = 0.0  # of the first epoch, as measured
    share_tokens: float = 0.0
    tokens: int = 0  # of the training examples, each counted once
    target_tokens: int = 0


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
    """All of mix.json."""

    sha256: str  # of all that decides about the data: examples, their use, weights and order
    sources: list[SourceReport]
    totals: dict[str, int]
    epoch: Epoch
    steps: int  # planned, by train.epochs and train.max_steps
    epochs: float  # that these steps come to
    checked: dict[str, int]  # questions of evaluations that rows were compared with
    not_checked: dict[str, str]  # evaluations that could not be read, and why
    settings: dict[str, Any]  # other keys of the config that the data depends on

    def write(self, folder: Path) -> None:
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
    shares = zip(mix.copies(), declared_shares(mix), strict=True)
    sources = [_source_report(each, *pair) for each, pair in zip(encoded, shares, strict=True)]
    drawn = np.array(order.epoch_order(0))
    sizes = (train.source, train.lengths, train.target_counts)
    totals = {
        "train_examples": len(train),
        "validation_examples": len(validation),
        "train_tokens": int(train.lengths.sum()),
        "validation_tokens": int(validation.lengths.sum()),
        "truncated": train.truncated + validation.truncated,
    }
    decides = [sha256, mix.by.value, mix.weights, mix.seed]
    plain = to_plain(cfg)
    del plain["data_mix"]["sources"], plain["data_mix"]["engine"]  # which decides nothing
    keys = ("model.name", "model.revision", "model.max_seq_len", "train.loss_on")
    return MixReport(
        sha256=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
        sources=sources,
        totals=totals,
        epoch=measure(sources, drawn, *sizes, cfg),
        steps=order.steps,
        epochs=order.examples / order.of_epoch,
        checked=selection.checked,
        not_checked=selection.not_checked,
        settings={key: plain[key.split(".")[0]][key.split(".")[1]] for key in keys}
        | {"prompt": plain["prompt"], "data_mix": plain["data_mix"]},
    )


def declared_shares(mix: Mix) -> list[float]:
    """What each source has of an epoch by the weights alone."""
    of_example = mix.tokens if mix.by is WeighBy.tokens else np.ones_like(mix.tokens)
    sizes = np.bincount(mix.source, of_example, len(mix.weights)) * mix.copies()
    return (sizes / sizes.sum()).tolist()


def _source_report(encoded: EncodedSource, copies: float, declared: float) -> SourceReport:
    source, cfg = encoded.selected.source, encoded.selected.source.cfg
    kept = encoded.selected.indices[np.unique(encoded.file.rows)]
    dropped = encoded.selected.dropped | _too_long(encoded)
    read, chosen = source.meta["rows_read"], source.meta["rows_kept"]
    not_drawn = chosen - len(kept) - sum(one.count for one in dropped.values())
    if not_drawn:
        dropped["max_rows"] = Dropped(not_drawn)
    return SourceReport(
        source=source.name,
        path=cfg.path,
        files=[str(path) for path in source.located.files],
        revision=source.located.revision,
        format=source.meta["format"],
        license=cfg.license,
        origin=cfg.origin.value,
        homepage=cfg.homepage,
        sha256=encoded.sha256,
        rows=read,
        filtered=read - chosen,
        dropped=dropped,
        reported=encoded.selected.reported,
        kept=len(kept),
        multi_turn=int((source.questions[kept] > 1).sum()),
        examples=len(encoded.file),
        validation=int(encoded.is_validation.sum()),
        weight=cfg.weight,
        copies=copies,
        declared_share=declared,
    )


def _too_long(encoded: EncodedSource) -> dict[str, Dropped]:
    """Rows that became no example, by reason: all for their length."""
    dropped = {}
    for reason, rows in encoded.dropped.items():
        gone = encoded.selected.indices[np.setdiff1d(rows, encoded.file.rows)]
        if len(gone):
            dropped[reason] = Dropped()
            for index in gone[:SHOWN].tolist():
                read = partial(encoded.selected.source.example, index)
                dropped[reason].add(read, DETAILS.get(reason, TOO_LONG))
            dropped[reason].count = len(gone)
    return dropped


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
        epoch.filled, epoch.filled_steps = packed(lengths.tolist(), per_step, most * size)
    return epoch


def histogram(lengths: Ints, most: int) -> list[tuple[int, int]]:
    """Examples by length, in bars of equal width up to `most` tokens."""
    width = -(-most // BARS)
    bars = np.bincount(-(-lengths // width), minlength=-(-most // width) + 1)
    return [(bar * width, int(count)) for bar, count in enumerate(bars)][1:]


def packed(lengths: Sequence[int], per_step: int, capacity: int) -> tuple[float, int]:
    """How full the packed rows are, and the steps that this was measured over."""
    firsts = range(0, len(lengths), per_step)[:PACKED_STEPS]
    steps = [lengths[first : first + per_step] for first in firsts]
    rows = sum(len(best_fit(step, capacity, True)) for step in steps)
    return sum(map(sum, steps)) / (rows * capacity), len(steps)
