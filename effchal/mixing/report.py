"""What a data mix holds, as measured: mix.json for programs, mix.md for people."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effchal.config import Config, DataMixConfig, TrainConfig, to_plain
from effchal.config.choices import OnFault, WeighBy
from effchal.mixing.best_fit import best_fit
from effchal.mixing.encode import NO_ANSWER, EncodedFile, Ints
from effchal.mixing.mix import Mix
from effchal.mixing.order import examples_of_run
from effchal.mixing.read import SHOWN, Dropped
from effchal.mixing.select import SelectedSource, Selection
from effchal.runs import write_atomic

BARS = 16  # of the histogram of lengths
PACKED_STEPS = 1000  # of the first epoch, whose rows are packed to tell how full they are
DETAILS = {NO_ANSWER: "no answer begins within model.max_seq_len tokens"}
TOO_LONG = "more than model.max_seq_len tokens"
log = logging.getLogger(__name__)


@dataclass
class SourceReport:
    """One source: where it is from, and what became of its rows."""

    source: str
    path: str
    files: int
    revision: str | None
    format: str
    license: str
    origin: str
    homepage: str | None
    sha256: str  # of its token ids, and of which are learned
    rows: int  # read = filtered + dropped + kept
    filtered: int  # left out by `where`
    dropped: dict[str, Dropped]  # left out by a rule
    reported: dict[str, Dropped]  # found by a rule, and kept
    kept: int
    multi_turn: int  # rows kept that ask more than once
    examples: int  # that the rows became, those for validation included
    validation: int
    tokens: int  # of the training examples, each counted once
    target_tokens: int
    weight: float
    declared_share: float  # of an epoch: of its tokens with data_mix.by=tokens, else of its rows
    share_rows: float  # of the first epoch
    share_tokens: float


@dataclass
class EpochReport:
    """The first pass over the mix, by its weights."""

    examples: int
    tokens: int
    target_tokens: int
    median_tokens: float  # of an example
    longest_tokens: int
    lengths: list[tuple[int, int]]  # a histogram: most tokens, examples
    row_tokens: int  # capacity of a packed row
    filled: float | None  # share of the capacity that holds tokens; None without packing
    filled_steps: int  # that it was measured over


@dataclass
class MixReport:
    """All of mix.json."""

    sha256: str  # of all that decides about the data: examples, their use, weights and order
    sources: list[SourceReport]
    totals: dict[str, int]
    epoch: EpochReport
    steps: int  # planned, by train.epochs and train.max_steps
    epochs: float  # that these steps come to
    decontaminated: dict[str, Any]  # evaluations that were looked for, and those that were not
    settings: dict[str, Any]  # keys of the config that the data depends on, without the sources

    def write(self, folder: Path) -> None:
        from effchal.mixing.report_page import page

        write_atomic(folder / "mix.json", json.dumps(asdict(self), indent=2) + "\n")
        write_atomic(folder / "mix.md", page(self))


def write_report(
    cfg: Config,
    selection: Selection,
    encoded: list[tuple[EncodedFile, dict[str, Any]]],
    mix: Mix,
    sha256: str,
    folder: Path,
) -> None:
    """Measure a mix and leave mix.json and mix.md.

    Args:
        encoded: of each source, its examples, and what encoding them told.
        mix: its training examples, those of one source after those of another.
        sha256: of all examples and their use.
    """
    files = [file for file, _ in encoded]
    used = [each.is_validation[f.rows] for each, f in zip(selection.sources, files, strict=True)]
    targets = np.concatenate([f.target_counts[~u] for f, u in zip(files, used, strict=True)])
    declared, shares = declared_shares(mix), mix.shares()
    sources = [
        source_report(cfg.data_mix, each, *found, flags, declared[i], *shares[i])
        for i, (each, found, flags) in enumerate(zip(selection.sources, encoded, used, strict=True))
    ]
    epoch = epoch_report(mix, targets, cfg.model.max_seq_len, cfg.train)
    run = examples_of_run(cfg.train, epoch.examples)
    plain = to_plain(cfg)
    del plain["data_mix"]["sources"]
    decides = [sha256, mix.by.value, mix.weights, mix.seed]
    totals = totals_of(files, used) | {
        "dropped_no_answer_left": sum(
            each.dropped[NO_ANSWER].count for each in sources if NO_ANSWER in each.dropped
        )
    }
    log.info("data mix: %s", ", ".join(f"{name} {count:,}" for name, count in totals.items()))
    MixReport(
        sha256=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
        sources=sources,
        totals=totals,
        epoch=epoch,
        steps=-(-run // cfg.train.examples_per_step),
        epochs=run / epoch.examples,
        decontaminated=selection.decontaminated,
        settings={
            "model.name": cfg.model.name,
            "model.revision": cfg.model.revision,
            "model.max_seq_len": cfg.model.max_seq_len,
            "prompt": plain["prompt"],
            "train.loss_on": plain["train"]["loss_on"],
            "data_mix": plain["data_mix"],
        },
    ).write(folder)


def source_report(
    cfg: DataMixConfig,
    selected: SelectedSource,
    file: EncodedFile,
    meta: dict[str, Any],
    is_validation: Ints,
    declared: float,
    share_rows: float,
    share_tokens: float,
) -> SourceReport:
    """Of one source; `is_validation` and the file tell of its examples, `meta` of its encoding."""
    source, rows = selected.source, np.unique(file.rows)
    found = selected.dropped | too_long(selected, rows, meta["dropped"])
    reported = {rule: one for rule, one in found.items() if action_of(cfg, rule) is OnFault.report}
    dropped = {rule: one for rule, one in found.items() if rule not in reported}
    read, chosen = source.meta["rows_read"], source.meta["rows_kept"]
    drawn = sum(one.count for one in dropped.values()) + len(rows)
    if drawn < chosen:
        dropped["max_rows"] = Dropped(chosen - drawn)
    return SourceReport(
        source=source.name,
        path=source.cfg.path,
        files=len(source.located.files),
        revision=source.located.revision,
        format=source.meta["format"],
        license=source.cfg.license,
        origin=source.cfg.origin.value,
        homepage=source.cfg.homepage,
        sha256=meta["sha256"],
        rows=read,
        filtered=read - chosen,
        dropped=dropped,
        reported=reported,
        kept=len(rows),
        multi_turn=int(np.count_nonzero(source.questions[selected.kept[rows]] > 1)),
        examples=len(file),
        validation=int(is_validation.sum()),
        tokens=int(file.lengths[~is_validation].sum()),
        target_tokens=int(file.target_counts[~is_validation].sum()),
        weight=source.cfg.weight,
        declared_share=declared,
        share_rows=share_rows,
        share_tokens=share_tokens,
    )


def too_long(
    selected: SelectedSource, encoded: Ints, found: dict[str, list[int]]
) -> dict[str, Dropped]:
    """Rows of which no example is left, by reason: they are longer than the model's rows."""
    result = {}
    for reason, places in found.items():
        gone = np.setdiff1d(places, encoded)
        if len(gone):
            one = result[reason] = Dropped()
            for example in selected.source.examples(selected.kept[gone[:SHOWN]].tolist()):
                one.add(example, DETAILS.get(reason, TOO_LONG))
            one.count = len(gone)
    return result


def action_of(cfg: DataMixConfig, rule: str) -> OnFault:
    """What becomes of the rows that a rule finds."""
    if rule == "decontaminate":
        return cfg.decontaminate.action
    return getattr(cfg.clean, rule, OnFault.drop)


def declared_shares(mix: Mix) -> list[float]:
    """What each source has of an epoch by the weights alone."""
    tokens = mix.tokens if mix.by is WeighBy.tokens else np.ones_like(mix.tokens)
    sizes = np.bincount(mix.source, tokens, len(mix.weights)) * mix.copies()
    return (sizes / sizes.sum()).tolist()


def epoch_report(mix: Mix, targets: Ints, max_seq_len: int, train: TrainConfig) -> EpochReport:
    """Of the first epoch; `targets` are those of each training example."""
    order = np.array(mix.epoch_order(0))
    lengths = mix.tokens[order]
    width = -(-max_seq_len // BARS)
    counts = np.bincount((lengths - 1) // width, minlength=-(-max_seq_len // width)).tolist()
    size = 1 if train.micro_batch_size == "auto" else int(train.micro_batch_size)
    firsts = range(0, len(order), train.examples_per_step)[:PACKED_STEPS]
    steps = [lengths[first : first + train.examples_per_step].tolist() for first in firsts]
    filled = None
    if train.packing:
        rows = sum(len(best_fit(step, max_seq_len, size, packing=True)) for step in steps)
        filled = sum(map(sum, steps)) / (rows * max_seq_len * size)
    return EpochReport(
        examples=len(order),
        tokens=int(lengths.sum()),
        target_tokens=int(targets[order].sum()),
        median_tokens=float(np.median(lengths)),
        longest_tokens=int(lengths.max()),
        lengths=[(width * bar, count) for bar, count in enumerate(counts, start=1)],
        row_tokens=max_seq_len * size,
        filled=filled,
        filled_steps=len(steps),
    )


def totals_of(files: list[EncodedFile], used: list[Ints]) -> dict[str, int]:
    lengths = np.concatenate([file.lengths for file in files])
    is_validation = np.concatenate(used)
    return {
        "train_examples": int((~is_validation).sum()),
        "validation_examples": int(is_validation.sum()),
        "train_tokens": int(lengths[~is_validation].sum()),
        "validation_tokens": int(lengths[is_validation].sum()),
        "truncated": sum(int(file.truncated.sum()) for file in files),
    }
