"""The chosen rows of each source as ids: encoded over all cores, or found in the cache."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effchal.config.choices import DataEngine
from effchal.mixing.encode import (
    EncodedBatch,
    EncodedExample,
    EncodedFile,
    EncodeWork,
    Ints,
    write_encoded,
)
from effchal.mixing.parallel import run_counted
from effchal.mixing.readers import DataError
from effchal.mixing.select import SelectedSource
from effchal.mixing.store import cached, key_of
from effchal.mixing.stored_source import StoredSource
from effchal.model.tokenizer import tokenizer_fingerprint
from effchal.prompts.chat_template import TemplateError
from effchal.tracking.terminal import progress

BATCH = 512  # conversations
LARGE = 4_000  # conversations from which processes pay


def _with_rows(
    results: Iterator[EncodedBatch], source: StoredSource, indices: Ints
) -> Iterator[EncodedBatch]:
    """The results; an error of the chat template names its row."""
    for number in itertools.count():
        try:
            yield next(results)
        except StopIteration:
            return
        except TemplateError as error:
            place = source.id_of(indices[number * BATCH + error.index])
            raise DataError(f"{place}: {error}") from error


@dataclass
class EncodedSource:
    selected: SelectedSource
    file: EncodedFile
    sha256: str  # of ids and targets
    dropped: dict[str, list[int]]  # by reason: positions in the chosen rows

    @property
    def is_validation(self) -> Ints:
        """(n,) bool, of the examples of the file."""
        return self.selected.is_validation[self.selected.indices[self.file.rows]]


class Examples(Sequence[EncodedExample]):
    """Some examples of several files, read when they are asked for."""

    def __init__(self, sources: list["EncodedSource"], indices: list[Ints]) -> None:
        files = [source.file for source in sources]
        self._files, self._indices = files, np.concatenate(indices)
        self.source = np.repeat(np.arange(len(files)), [len(each) for each in indices])
        pairs = list(zip(files, indices, strict=True))
        self.lengths = np.concatenate([file.lengths[i] for file, i in pairs])
        self.target_counts = np.concatenate([file.target_counts[i] for file, i in pairs])
        self.truncated = int(sum(file.truncated[i].sum() for file, i in pairs))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._files[self.source[index]][self._indices[index]]

    def id_at(self, index: int) -> str:
        return self._files[self.source[index]].id_at(self._indices[index])


def encode_source(
    selected: SelectedSource, work: EncodeWork, engine: DataEngine = DataEngine.local
) -> EncodedSource:
    """The chosen rows of a source as ids, encoded or found in the cache."""
    source, indices = selected.source, selected.indices
    rows = hashlib.sha256(np.packbits(selected.kept).tobytes()).hexdigest()
    asked = asdict(work) | {"model": None}  # what the ids depend on, besides rows and tokenizer
    key = key_of("encode", source.key, rows, tokenizer_fingerprint(work.model), asked)

    def build(folder: Path) -> dict[str, Any]:
        digest, dropped = hashlib.sha256(), dict[str, list[int]]()

        def counted(results: Iterator[EncodedBatch]) -> Iterator[tuple[int, EncodedBatch]]:
            for number, batch in enumerate(_with_rows(results, source, indices)):
                for ids, learned in batch.examples():
                    digest.update(ids.tobytes() + learned.tobytes())
                for row, reason in batch.dropped:
                    dropped.setdefault(reason, []).append(number * BATCH + row)
                yield number * BATCH, batch

        with progress(f"encoding source {source.name}", len(indices), "rows") as advance:
            used = engine if len(indices) >= LARGE else None
            results = run_counted(work, source.batches(indices, BATCH), used, advance)
            write_encoded(folder / "ids.arrow", counted(results))
        return {"sha256": digest.hexdigest(), "dropped": dropped}

    folder, meta = cached("ids", key, build)
    file = EncodedFile(folder / "ids.arrow", lambda row: source.id_of(indices[row]))
    return EncodedSource(selected, file, meta["sha256"], meta["dropped"])
