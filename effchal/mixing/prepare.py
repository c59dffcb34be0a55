"""From a config to the examples that a run trains on and is measured with."""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effchal.config import Config
from effchal.mixing.encode import (
    EncodedBatch,
    EncodedExample,
    EncodedFile,
    EncodeJob,
    Ints,
    write_encoded,
)
from effchal.mixing.mix import Mix
from effchal.mixing.order import TrainingOrder
from effchal.mixing.parallel import run_batches
from effchal.mixing.report import write_report
from effchal.mixing.select import SelectedSource, Selection, batched, select
from effchal.mixing.sources import DataError
from effchal.mixing.store import cached, key_of
from effchal.model.tokenizer import tokenizer_fingerprint

log = logging.getLogger(__name__)
BATCH = 512  # conversations
DIGEST = "2:"  # begins the digest of data; earlier versions had another one
LARGE = 4_000  # conversations from which processes pay


class Examples(Sequence[EncodedExample]):
    """Some examples of several files, read when they are asked for."""

    def __init__(self, files: list[EncodedFile], indices: list[Ints]) -> None:
        self._files, self._indices = files, np.concatenate(indices)
        self.source = np.repeat(np.arange(len(files)), [len(each) for each in indices])
        self.lengths = np.concatenate([f.lengths[i] for f, i in zip(files, indices, strict=True)])

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._files[self.source[index]][self._indices[index]]

    def id_at(self, index: int) -> str:
        return self._files[self.source[index]].id_at(self._indices[index])


@dataclass
class PreparedData:
    """All examples of a run, encoded."""

    order: TrainingOrder
    validation: Examples
    sha256: str  # of all examples: ids, targets and use


def prepare_data(cfg: Config, run_dir: Path, selection: Selection | None = None) -> PreparedData:
    """Load and encode the data mix; leaves mix.json and mix.md in the run folder.

    Args:
        selection: what select() chose already.

    Raises:
        ConfigError: a tokenizer or a source that cannot be used, or no example to train on.
    """
    selection = selection or select_data(cfg)
    job = EncodeJob(
        cfg.model, cfg.prompt, cfg.model.max_seq_len, cfg.train.loss_on, cfg.data_mix.clean.too_long
    )
    encoded = [encode_source(each, job) for each in selection.sources]
    files = [file for file, _ in encoded]
    is_validation = [
        each.is_validation[file.rows] for each, file in zip(selection.sources, files, strict=True)
    ]
    train = Examples(files, [np.flatnonzero(~flags) for flags in is_validation])
    validation = Examples(files, [np.flatnonzero(flags) for flags in is_validation])
    if not len(train):
        raise DataError(
            "no training example has an answer within "
            f"model.max_seq_len={cfg.model.max_seq_len} tokens"
        )
    weights = {each.source.name: each.source.cfg.weight for each in selection.sources}
    mix = Mix(train.source, train.lengths, weights, cfg.data_mix.by, cfg.data_mix.seed)
    order = TrainingOrder(mix, train, cfg.train)
    if order.steps == 0:
        raise DataError("the weights of data_mix.sources draw no example at all; raise them")
    digests = [meta["sha256"] for _, meta in encoded]
    uses = [hashlib.sha256(np.packbits(flags)).hexdigest() for flags in is_validation]
    sha256 = DIGEST + hashlib.sha256(json.dumps([digests, uses]).encode()).hexdigest()
    write_report(cfg, selection, encoded, mix, sha256, run_dir)
    return PreparedData(order, validation, sha256)


def select_data(cfg: Config) -> Selection:
    """The rows of a run, chosen without torch or a tokenizer."""
    folder = cfg.scenario.path
    return select(cfg.data_mix, None if folder is None else Path(folder))


def encode_source(selected: SelectedSource, job: EncodeJob) -> tuple[EncodedFile, dict[str, Any]]:
    """The chosen rows of a source as ids, encoded or found in the cache."""
    source = selected.source
    rows = hashlib.sha256(selected.kept).hexdigest()
    key = key_of("encode", source.key, rows, tokenizer_fingerprint(job.model), _asked(job))

    def build(folder: Path) -> dict[str, Any]:
        digest, dropped = hashlib.sha256(), dict[str, list[int]]()
        batches = batched(source.stored(selected.kept.tolist()), BATCH)
        # A process that has torch has loaded transformers or will: here, a small mix costs nothing.
        in_processes = len(selected.kept) >= LARGE or "torch" not in sys.modules
        results = run_batches(job, batches, in_processes)

        def counted() -> Iterator[tuple[int, EncodedBatch]]:
            for number, batch in enumerate(results):
                for ids, learned in zip(batch.ids, batch.learned, strict=True):
                    digest.update(ids.tobytes() + learned.tobytes())
                for row, reason in batch.dropped:
                    dropped.setdefault(reason, []).append(number * BATCH + row)
                yield number * BATCH, batch

        write_encoded(folder / "ids.arrow", counted())
        return {"sha256": digest.hexdigest(), "dropped": dropped}

    folder, meta = cached("ids", key, build)
    return EncodedFile(folder / "ids.arrow", lambda row: source.id_of(selected.kept[row])), meta


def _asked(job: EncodeJob) -> dict[str, Any]:
    """What the ids depend on, besides rows and tokenizer."""
    return asdict(job) | {"model": None}
