"""The rows of a source as conversations in the cache: read once, checked once."""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from effchal.config import CleanConfig, DataSourceConfig
from effchal.config.choices import OnFault
from effchal.mixing.clean import Fault, faults_of, text_key
from effchal.mixing.dropped import Dropped
from effchal.mixing.encode import ROWS, stored_turns, turns_of
from effchal.mixing.example import Example
from effchal.mixing.locate import Located, locate
from effchal.mixing.parallel import Work, run_counted
from effchal.mixing.readers import DataError
from effchal.mixing.sources import SourceReader
from effchal.mixing.store import cached, key_of, open_arrow, write_arrow
from effchal.tracking.terminal import Advance, progress

log = logging.getLogger(__name__)
Ints = npt.NDArray[Any]
CHECKED = 512  # rows that are looked at together
LARGE_BYTES = 8_000_000  # of files, from which processes pay
StoredRow = tuple[int, int, bytes, bytes, bytes]  # as SCHEMA has them
SCHEMA = pa.schema(
    {
        "number": pa.int64(),  # of the row in the source, from 0
        "questions": pa.int32(),
        "prompt_key": pa.binary(32),
        "text_key": pa.binary(16),
        "turns": pa.binary(),
    }
)


@dataclass
class StoredSource:
    """One source in the cache, after `where` and the rules for single rows."""

    name: str
    cfg: DataSourceConfig
    located: Located
    key: str  # of its content
    path: Path
    meta: dict[str, Any]  # rows_read, rows_kept, format, dropped by rule
    numbers: Ints  # (n,)
    questions: Ints  # (n,)
    prompt_keys: Ints  # (n,) bytes
    text_keys: Ints  # (n,) bytes

    def __len__(self) -> int:
        return len(self.numbers)

    def id_of(self, index: int) -> str:
        return f"{self.name}:{self.numbers[index]}"

    def example(self, index: int) -> Example:
        number, place = divmod(int(index), ROWS)
        stored = self._mapped.get_batch(number).column("turns")[place].as_py()
        return Example(self.id_of(index), turns_of(stored))

    @cached_property
    def _mapped(self) -> pa.ipc.RecordBatchFileReader:
        return open_arrow(self.path)

    def stored(self, indices: Sequence[int]) -> Iterator[bytes]:
        """The turns of some rows, in rising order, as the cache keeps them."""
        with pa.OSFile(str(self.path)) as file:  # mapped, it would count as memory
            reader, number = pa.ipc.open_file(file), -1
            turns: Any = None
            for index in indices:
                wanted, place = divmod(int(index), ROWS)
                if wanted != number:
                    number, turns = wanted, reader.get_batch(wanted).column("turns")
                yield turns[place].as_py()


def read_source(name: str, cfg: DataSourceConfig, clean: CleanConfig) -> StoredSource:
    """Read a source, or find it in the cache by the content of its files.

    Raises:
        DataError: missing or unreachable source, malformed row, no row left, or a file that
            changed while it was read.
    """
    located = locate(name, cfg)
    digests = [digest_of(path, name) for path in located.files]
    rules = [clean.empty_answers.value, clean.loops.value]
    asked = [cfg.format.value, cfg.columns, cfg.split, cfg.where, rules]
    kinds = ["".join(path.suffixes[-2:]).lower() for path in located.files]
    key = key_of("read", digests, kinds, asked)

    def build(folder: Path) -> dict[str, Any]:
        reader = SourceReader(name, cfg, located, clean.empty_answers is OnFault.drop)
        dropped: dict[str, Dropped] = {}
        with progress(f"reading source {name}", unit="rows") as advance:
            rows = _checked(reader, clean, dropped, advance)
            write_arrow(folder / "rows.arrow", SCHEMA, map(_record_batch, batched(rows, ROWS)))
        if [digest_of(path, name) for path in located.files] != digests:
            raise DataError(f"source {name}: {located.described} changed while it was read")
        return {
            "rows_read": reader.rows_read,
            "rows_kept": reader.rows_kept,
            "format": reader.described_format(),
            "absent": reader.where.absent(),
            "dropped": {rule: asdict(one) for rule, one in dropped.items()},
        }

    folder, meta = cached("rows", key, build)
    log.info("source %s: %s, %s rows", name, meta["format"], f"{meta['rows_read']:,}")
    for line in meta["absent"]:
        log.warning("source %s has %s", name, line)
    path = folder / "rows.arrow"
    reader = open_arrow(path)
    batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    columns = [_column(batches, each) for each in ("number", "questions", "prompt_key", "text_key")]
    return StoredSource(name, cfg, located, key, path, meta, *columns)


def digest_of(path: Path, owner: str) -> str:
    """Digest of a file's content: fast, and no proof against one who wants two files alike."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"source {owner}: {path} is gone") from error


@dataclass(frozen=True)
class CheckJob:
    """What the rules for single rows say of each row, and the keys that it is known by."""

    clean: CleanConfig

    def start(self) -> Work:
        def work(batch: list[tuple[int, bytes]]) -> list[tuple[Fault | None, StoredRow]]:
            examples = [Example(str(number), turns_of(stored)) for number, stored in batch]
            faults = faults_of(examples, self.clean)
            keys = [(bytes.fromhex(each.prompt_key), text_key(each)) for each in examples]
            return [
                (fault, (number, example.questions, *both, stored))
                for fault, (number, stored), example, both in zip(
                    faults, batch, examples, keys, strict=True
                )
            ]

        return work


def _checked(
    reader: SourceReader, clean: CleanConfig, dropped: dict[str, Dropped], advance: Advance
) -> Iterator[StoredRow]:
    """The rows of a source that its faults leave."""
    numbered = (
        (int(each.id.rpartition(":")[2]), stored_turns(each.turns)) for each in iter(reader)
    )
    is_large = sum(path.stat().st_size for path in reader.located.files) >= LARGE_BYTES
    results = run_counted(CheckJob(clean), batched(numbered, CHECKED), is_large, advance)
    for fault, row in itertools.chain.from_iterable(results):
        action = OnFault.keep if fault is None else getattr(clean, fault.rule)
        if fault is not None:
            name = f"{reader.name}:{row[0]}"
            if action is OnFault.refuse:
                key = f"data_mix.clean.{fault.rule}"
                raise DataError(f"{name}: {fault.detail}; {key}=drop leaves it out")
            read = partial(Example, name, turns_of(row[-1]))
            dropped.setdefault(fault.rule, Dropped()).add(read, fault.detail)
        if action is not OnFault.drop:
            yield row
    if reader.empty.count:
        dropped.setdefault("empty_answers", Dropped()).join(reader.empty)


def batched(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    left = iter(values)
    while batch := list(itertools.islice(left, size)):
        yield batch


def _record_batch(rows: list[StoredRow]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, SCHEMA.field(i).type) for i, c in enumerate(columns)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _column(batches: list[pa.RecordBatch], name: str) -> Ints:
    kind = SCHEMA.field(name).type
    if not pa.types.is_fixed_size_binary(kind):
        parts = [batch.column(name).to_numpy() for batch in batches]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)
    size = kind.byte_width
    raw = b"".join(
        bytes(column.buffers()[1])[column.offset * size : (column.offset + len(column)) * size]
        for column in (batch.column(name) for batch in batches)
    )
    return np.frombuffer(raw, f"V{size}")
