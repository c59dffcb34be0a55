"""The rows of one data file, one after another: memory does not grow with the file, .json aside."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.mixing.rows import (
    DataRow,
    not_utf8,
    open_rows,
    parse_json,
    read_jsonl,
    unpacked_name,
    unpacking,
)

BATCH = 1024  # rows of a parquet file that are Python objects at a time
BUFFER = 2**20  # bytes of each column
CSV_FIELD = 2**31 - 1  # characters; Python's own limit refuses a text of 131,073
csv.field_size_limit(CSV_FIELD)


class DataError(ConfigError):
    """Data that cannot be used. The message names source or file, line, field and remedy."""

    is_empty_text = False  # a row has nothing where a text belongs, and no other fault


def suffix_of(path: Path) -> str:
    """The kind of a file by its name: .jsonl of rows.JSONL and of rows.jsonl.gz."""
    return Path(unpacked_name(path)).suffix.lower()


def is_readable(path: Path) -> bool:
    """Whether a name is that of a data file. Parquet and Arrow pack their own content."""
    suffix = suffix_of(path)
    return suffix in READERS and (unpacked_name(path) == path.name or suffix not in COLUMNAR)


def read_rows(path: Path) -> Iterator[DataRow]:
    """The rows of a file that is_readable.

    Raises:
        DataError: not the file that its name says, or a line of it; a file that is gone.
    """
    try:
        yield from READERS[suffix_of(path)](path)
    except ModuleNotFoundError as error:
        remedy = f'needs the package {error.name}: pip install "effchal[train]"'
        raise DataError(f"{path} {remedy}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_json(path: Path) -> Iterator[DataRow]:
    with open_rows(path) as file, unpacking(path, DataError):
        content = file.read()
    rows = parse_json(content, str(path), DataError, _json_hint(content), unique_keys=True)
    if isinstance(rows, dict):
        lists = [name for name, value in rows.items() if isinstance(value, list)]
        remedy = f"; write the list of its key {lists[0]!r} alone" if lists else ""
        raise DataError(f"{path}: expected a list of rows, found an object{remedy}")
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, found {type(rows).__name__}")
    return _numbered(rows, path)


def _json_hint(content: bytes) -> str:
    """What to do about a .json file that is not JSON as a whole."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(json.loads(content.partition(b"\n")[0]), dict):
            return "; the file has one object a line, so its name must end in .jsonl"
    return ""


def _read_table(path: Path, separator: str) -> Iterator[DataRow]:
    """Rows of a table as text; the first line names the columns."""
    with open_rows(path) as file, unpacking(path, DataError):
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        table = csv.reader(lines, delimiter=separator, strict=True)
        try:
            names = next(table, [])
            _check_separator(names, separator, path)
            _check_names(names, f"{path}, line 1")
            for values in table:
                place = _line(path, table)
                yield DataRow(_fields(names, values, place), place, DataError)
        except UnicodeDecodeError as error:
            reason = not_utf8(error.object)
            raise DataError(f"{path}, after line {table.line_num}: {reason}") from error
        except csv.Error as error:
            raise DataError(f"{_line(path, table)}: {error}") from error


def _check_separator(names: list[str], separator: str, path: Path) -> None:
    found = next((sign for sign in ",;\t|" if len(names) == 1 and sign in names[0]), None)
    if found is not None:
        raise DataError(
            f"{path}, line 1: {found!r} seems to separate its columns, and a {suffix_of(path)} "
            f"file has {separator!r} there; save it so"
        )


def _check_names(names: list[str], place: str) -> None:
    """Raise DataError for a column that is there twice; one without a name can be of no use."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{place}: the column {twice!r} stands twice; remove one of the two")


def _line(path: Path, table: Any) -> str:
    return f"{path}, line {table.line_num}"


def _fields(names: list[str], values: list[str], place: str) -> dict[str, Any]:
    if not values:
        raise DataError(f"{place}: empty line; remove it")
    if len(values) != len(names):
        raise DataError(
            f"{place}: {len(values)} values for {len(names)} columns "
            f"({', '.join(names)}); put a value that holds a separator or a line end in quotes"
        )
    return dict(zip(names, values, strict=True))


def _read_columnar(path: Path, batches_of: Callable[[Path], Iterator[Any]]) -> Iterator[DataRow]:
    """Rows of a file that pyarrow reads. It comes with `datasets`; only training needs it."""
    import pyarrow

    kind = suffix_of(path).removeprefix(".")
    try:
        yield from _numbered(_rows_of(batches_of(path), path), path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable {kind} file ({reason})") from error


def _rows_of(batches: Iterator[Any], path: Path) -> Iterator[Any]:
    for batch in batches:
        _check_names(batch.schema.names, str(path))
        yield from batch.to_pylist()


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet

    # Else a whole group of rows is read at once, and it may be the whole file.
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
        yield from file.iter_batches(BATCH, use_threads=False)


def _arrow_batches(path: Path) -> Iterator[Any]:
    """The record batches of both forms: the stream, as `datasets` writes it, and the file."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            table = pyarrow.ipc.open_file(source)
            whole = (table.get_batch(i) for i in range(table.num_record_batches))
        else:
            source.seek(0)
            whole = pyarrow.ipc.open_stream(source)
        for batch in whole:
            yield from (batch.slice(i, BATCH) for i in range(0, batch.num_rows, BATCH))


def _numbered(rows: Iterable[Any], path: Path) -> Iterator[DataRow]:
    return (DataRow.of(row, f"{path}, row {i}", DataError) for i, row in enumerate(rows, start=1))


COLUMNAR = (".parquet", ".arrow")
READERS: dict[str, Callable[[Path], Iterator[DataRow]]] = {
    ".jsonl": partial(read_jsonl, error=DataError),
    ".json": _read_json,
    ".csv": partial(_read_table, separator=","),
    ".tsv": partial(_read_table, separator="\t"),
    ".parquet": partial(_read_columnar, batches_of=_parquet_batches),
    ".arrow": partial(_read_columnar, batches_of=_arrow_batches),
}
KINDS = f"{', '.join(READERS)} or .jsonl.gz"  # for messages
