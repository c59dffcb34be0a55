"""One source of examples: load it from a file or the hub, filter it, check every row."""

import contextlib
import csv
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from effchal.config import ConfigError, DataSourceConfig
from effchal.config.choices import DataFormat
from effchal.mixing.formats import renamed, with_format
from effchal.prompts import Turn
from effchal.rows import Row, is_gzip, open_rows, parse_json, read_jsonl, unpacking

BUILTIN_DIR = Path(__file__).parent / "quickstart"
log = logging.getLogger(__name__)


class DataError(ConfigError):
    """Data that cannot be used. The message names source or file, line, field and remedy."""


@dataclass(frozen=True)
class Example:
    id: str  # <source>:<row number in the unfiltered source, from 0>
    turns: tuple[Turn, ...]

    @property
    def questions(self) -> int:
        return sum(turn.role == "user" for turn in self.turns)

    @property
    def prompt_key(self) -> str:
        """Digest of the first question, case and spaces aside: it decides about validation."""
        question = next((turn for turn in self.turns if turn.role == "user"), self.turns[0])
        return hashlib.sha256(" ".join(question.content.lower().split()).encode()).hexdigest()


def load_source(name: str, cfg: DataSourceConfig) -> list[Example]:
    """All examples of one source, in file order, after its `where:` filter.

    Raises:
        DataError: missing, gated or unreachable source; malformed row; filter that keeps nothing.
    """
    rows, where_found = _open(name, cfg)
    if cfg.columns:
        rows = (renamed(row, cfg.columns) for row in rows)
    kind, turns_of, rows = with_format(rows, cfg.format)
    if cfg.format is DataFormat.auto:
        log.info("source %s: format %s", name, kind.value)
    examples = []
    seen: dict[str, set[str]] = {column: set() for column in cfg.where}
    for number, row in enumerate(rows):
        if _kept(row, cfg.where, seen):
            examples.append(Example(f"{name}:{number}", tuple(turns_of(row))))
    if not examples:
        found = "; ".join(
            f"{column} has {', '.join(sorted(values)[:20])}" for column, values in seen.items()
        )
        reason = f"no example that passes `where`: {found}" if found else "no example"
        raise DataError(f"source {name} ({where_found}) has {reason}")
    for column, values in seen.items():
        absent = [value for value in cfg.where[column] if value not in values]
        if absent:
            log.warning("source %s has no row where %s is %s", name, column, ", ".join(absent))
    return examples


def is_local(cfg: DataSourceConfig) -> bool:
    """Whether rows come from a file on this machine; a `revision` then says nothing about them."""
    path = Path(cfg.path)
    return cfg.path.startswith("builtin:") or path.exists() or _suffix(path) in _READERS


def _suffix(path: Path) -> str:
    """The kind of a file by its name: .jsonl of rows.JSONL and of rows.jsonl.gz."""
    return Path(path.stem if is_gzip(path) else path.name).suffix.lower()


def _kept(row: Row, where: dict[str, list[str]], seen: dict[str, set[str]]) -> bool:
    for column in where:
        if column not in row.fields:
            raise DataError(
                f"{row.place}: no field {column!r}, which `where` filters by; "
                f"it has {', '.join(row.fields)}"
            )
        seen[column].add(str(row.fields[column]))
    return all(str(row.fields[column]) in allowed for column, allowed in where.items())


def _open(name: str, cfg: DataSourceConfig) -> tuple[Iterator[Row], str]:
    """All rows, and where they were found."""
    if cfg.path.startswith("builtin:"):
        path = BUILTIN_DIR / cfg.path.removeprefix("builtin:")
        return _read_file(path, f"source {name}"), str(path)
    if is_local(cfg):
        return _read_file(Path(cfg.path), f"source {name}"), cfg.path
    return _read_hub(name, cfg), f"{cfg.path} at {cfg.revision}"


def _read_file(path: Path, owner: str) -> Iterator[Row]:
    reader = _READERS.get(_suffix(path))
    if reader is None or (is_gzip(path) and reader is _read_parquet):
        raise DataError(f"{owner}: {path} is no {', '.join(_READERS)} or .jsonl.gz file")
    if not path.is_file():
        raise DataError(
            f"{owner}: no file {path} (from {Path.cwd()}); give data_mix.sources.<name>.path=<file>"
        )
    return reader(path)


def _read_json(path: Path) -> Iterator[Row]:
    with open_rows(path) as file, unpacking(path, DataError):
        content = file.read()
    rows = parse_json(content, str(path), DataError, _json_hint(content), unique_keys=True)
    if isinstance(rows, dict):
        lists = [name for name, value in rows.items() if isinstance(value, list)]
        remedy = f"; write the list of its key {lists[0]!r} alone" if lists else ""
        raise DataError(f"{path}: expected a list of rows, found an object{remedy}")
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, found {type(rows).__name__}")
    return _numbered(rows, str(path))


def _json_hint(content: bytes) -> str:
    """What to do about a .json file that is not JSON as a whole."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(json.loads(content.partition(b"\n")[0]), dict):
            return "; the file has one object a line, so its name must end in .jsonl"
    return ""


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # comes with datasets; only training needs it

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    return _numbered(rows, str(path))


def _read_table(path: Path, separator: str) -> Iterator[Row]:
    """Rows of a table as text; the first line names the columns."""
    with open_rows(path) as file, unpacking(path, DataError):
        try:
            lines = io.StringIO(file.read().decode("utf-8-sig"), newline="")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, byte {error.start + 1}: not UTF-8") from error
    table = csv.reader(lines, delimiter=separator, strict=True)
    try:
        names = next(table, [])
        for values in table:
            place = f"{path}, line {table.line_num}"
            if len(values) != len(names):
                raise DataError(
                    f"{place}: {len(values)} values for {len(names)} columns ({', '.join(names)}); "
                    "put a value that holds a separator or a line end in quotes"
                )
            yield Row(dict(zip(names, values, strict=True)), place, DataError)
    except csv.Error as error:
        raise DataError(f"{path}, line {table.line_num}: {error}") from error


def _numbered(rows: Iterable[Any], source: str) -> Iterator[Row]:
    return (Row.of(row, f"{source}, row {i}", DataError) for i, row in enumerate(rows, start=1))


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": partial(read_jsonl, error=DataError),
    ".json": _read_json,
    ".csv": partial(_read_table, separator=","),
    ".tsv": partial(_read_table, separator="\t"),
    ".parquet": _read_parquet,
}


def _read_hub(name: str, cfg: DataSourceConfig) -> Iterator[Row]:
    if cfg.revision is None:
        raise DataError(
            f"source {name}: {cfg.path} is no file here, and as a data set id it needs "
            f"data_mix.sources.{name}.revision=<commit>, or the run is not reproducible"
        )
    import datasets
    import huggingface_hub

    try:
        if cfg.file is not None:
            local = huggingface_hub.hf_hub_download(
                cfg.path, cfg.file, repo_type="dataset", revision=cfg.revision
            )
        else:
            # A cache per commit: without the hub, the client takes any commit that its cache has.
            cache = str(Path(datasets.config.HF_DATASETS_CACHE) / f"effchal-{cfg.revision}")
            table = datasets.load_dataset(
                cfg.path, revision=cfg.revision, split=cfg.split, cache_dir=cache
            )
    except Exception as error:  # every client and transport of the hub raises its own
        raise DataError(_hub_message(name, cfg, error)) from error
    if cfg.file is not None:
        return _read_file(Path(local), f"source {name}")
    return _numbered(table, cfg.path)


def _hub_message(name: str, cfg: DataSourceConfig, error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if "GatedRepoError" in kinds or "gated" in text.lower() or " 401 " in text or " 403 " in text:
        reason = "is gated: accept its terms on the hub and set HF_TOKEN"
    elif kinds & {
        "RepositoryNotFoundError",
        "DatasetNotFoundError",
        "RevisionNotFoundError",
        "EntryNotFoundError",
    }:
        reason = f"is not on the hub at revision {cfg.revision} (or is private: set HF_TOKEN)"
    else:
        reason = f"cannot be reached ({type(error).__name__})"
    return (
        f"source {name}: {cfg.path} {reason}. With the rows in a local file: "
        f"data_mix.sources.{name}.path=<.jsonl, .json or .parquet>. "
        f"The hub said: {text.strip()[:300]}"
    )
