"""The rows of a source as conversations in the cache: read once, checked once."""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from effchal.config import CleanConfig, DataSourceConfig
from effchal.config.choices import DataEngine, DataFormat, OnFault
from effchal.mixing.clean import Fault, faults_of, text_key
from effchal.mixing.dropped import Dropped
from effchal.mixing.encode import ROWS, stored_turns, turns_of
from effchal.mixing.example import Example
from effchal.mixing.locate import locate
from effchal.mixing.parallel import run_batches, run_counted
from effchal.mixing.readers import DataError
from effchal.mixing.sources import FileReader, FileSummary, SourceReader
from effchal.mixing.store import cached, key_of, write_arrow
from effchal.mixing.stored_source import SCHEMA, StoredRow, StoredSource, record_batch
from effchal.tracking.terminal import Advance, progress

log = logging.getLogger(__name__)
CHECKED = 512  # rows that are looked at together
LARGE_BYTES = 8_000_000  # of files, from which processes pay
MANY_BYTES = 10_000_000_000  # of files, from which other machines pay to digest them
Checked = tuple[Fault | None, StoredRow]


def read_source(
    name: str, cfg: DataSourceConfig, clean: CleanConfig, engine: DataEngine = DataEngine.local
) -> StoredSource:
    """Read a source, or find it in the cache by the content of its files.

    Raises:
        DataError: missing or unreachable source, malformed row, no row left, or a file that
            changed while it was read.
    """
    located = locate(name, cfg)
    digests = _digests(name, located.files, engine)
    rules = [clean.empty_answers.value, clean.loops.value]
    asked = [cfg.format.value, cfg.columns, cfg.split, cfg.where, rules]
    kinds = ["".join(path.suffixes[-2:]).lower() for path in located.files]
    key = key_of("read", digests, kinds, asked)

    def build(folder: Path) -> dict[str, Any]:
        reader = SourceReader(name, cfg, located, clean.empty_answers is OnFault.drop)
        used = engine if _bytes_of(located.files) >= LARGE_BYTES else None
        read = _read_on_ray if used is DataEngine.ray else partial(_read_here, engine=used)
        dropped: dict[str, Dropped] = {}
        with progress(f"reading source {name}", unit="rows") as advance:
            checked = read(reader, clean, digests, advance)
            rows = _without_faults(checked, reader, clean, dropped)
            write_arrow(folder / "rows.arrow", SCHEMA, map(record_batch, batched(rows, ROWS)))
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
    return StoredSource.of(name, cfg, located, key, folder / "rows.arrow", meta)


def _bytes_of(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def digest_of(path: Path, owner: str) -> str:
    """Digest of a file's content: fast, and no proof against one who wants two files alike."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"source {owner}: {path} is gone") from error


@dataclass(frozen=True)
class FileBatch:
    """One file of a source, for a process that reads it."""

    path: Path


def digest_file(owner: str, batch: FileBatch) -> str:
    return digest_of(batch.path, owner)


def _digests(name: str, files: Sequence[Path], engine: DataEngine) -> list[str]:
    is_large = engine is DataEngine.ray and _bytes_of(files) >= MANY_BYTES
    used = DataEngine.ray if is_large else None
    return list(run_batches(partial(digest_file, name), map(FileBatch, files), used))


def check_rows(clean: CleanConfig, batch: list[tuple[int, bytes]]) -> list[Checked]:
    """What the rules for single rows say of each row, and the keys that it is known by."""
    examples = [Example(str(number), turns_of(stored)) for number, stored in batch]
    faults = faults_of(examples, clean)
    keys = [(bytes.fromhex(each.prompt_key), text_key(each)) for each in examples]
    return [
        (fault, (number, example.questions, *both, stored))
        for fault, (number, stored), example, both in zip(
            faults, batch, examples, keys, strict=True
        )
    ]


def read_file(
    files: FileReader, clean: CleanConfig, batch: FileBatch
) -> Iterator[tuple[DataFormat | None, list[Checked]] | tuple[FileSummary, str]]:
    """Read a file and check its rows, all where the work is done.

    Gives batches of rows, numbered in the file, each with the format; then the summary of the
    file and the digest of what was read.
    """
    summary = FileSummary()
    rows = files.read(batch.path, summary)
    numbered = ((number, stored_turns(turns)) for number, turns in rows)
    for some in batched(numbered, CHECKED):
        yield summary.format, check_rows(clean, some)
    yield summary, digest_of(batch.path, files.name)


def _read_here(
    reader: SourceReader,
    clean: CleanConfig,
    digests: list[str],
    advance: Advance,
    engine: DataEngine | None,
) -> Iterator[Checked]:
    """The rows of a source, read in this process and checked by `engine`."""
    numbered = (
        (int(each.id.rpartition(":")[2]), stored_turns(each.turns)) for each in iter(reader)
    )
    results = run_counted(partial(check_rows, clean), batched(numbered, CHECKED), engine, advance)
    yield from itertools.chain.from_iterable(results)
    if [digest_of(path, reader.name) for path in reader.located.files] != digests:
        raise _changed(reader)


def _read_on_ray(
    reader: SourceReader, clean: CleanConfig, digests: list[str], advance: Advance
) -> Iterator[Checked]:
    """The rows of a source, each file read and checked where Ray has room."""
    files = iter(zip(reader.located.files, digests, strict=True))
    path, digest = next(files)
    batches = map(FileBatch, reader.located.files)
    work = partial(read_file, reader.files, clean)
    for what, rows in run_batches(work, batches, DataEngine.ray):
        if isinstance(what, FileSummary):
            reader.join(what, path)
            advance(reader.rows_read)
            if rows != digest:
                raise _changed(reader)
            path, digest = next(files, (path, digest))
            continue
        reader.take_format(what, path)
        for fault, (number, *others) in rows:
            yield fault, (reader.rows_read + number, *others)
        advance(reader.rows_read + rows[-1][1][0] + 1)
    reader.finish()


def _changed(reader: SourceReader) -> DataError:
    return DataError(f"source {reader.name}: {reader.located.described} changed while it was read")


def _without_faults(
    checked: Iterable[Checked],
    reader: SourceReader,
    clean: CleanConfig,
    dropped: dict[str, Dropped],
) -> Iterator[StoredRow]:
    """The rows of a source that its faults leave; what they drop is counted in `dropped`."""
    for fault, row in checked:
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
