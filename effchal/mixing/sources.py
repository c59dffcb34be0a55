"""One source of examples: load it from a file or the hub, filter it, check every row."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.config import ConfigError, DataSourceConfig
from effchal.config.choices import DataFormat
from effchal.prompts import Turn

BUILTIN_DIR = Path(__file__).parent / "quickstart"
log = logging.getLogger(__name__)


class DataError(ConfigError):
    """Data that cannot be used. The message names source or file, line, field and remedy."""


@dataclass(frozen=True)
class Example:
    id: str  # <source>:<row number in the unfiltered source, from 0>
    turns: tuple[Turn, ...]

    @property
    def prompt_key(self) -> str:
        """Digest of the first turn, case and spaces aside: the validation choice goes by it."""
        return hashlib.sha256(" ".join(self.turns[0].content.lower().split()).encode()).hexdigest()


def load_source(name: str, cfg: DataSourceConfig) -> list[Example]:
    """All examples of one source, in file order, after its `where:` filter.

    Raises:
        DataError: missing, gated or unreachable source; malformed row; filter that keeps nothing.
    """
    rows, where_found = _open(name, cfg)
    examples = []
    seen: dict[str, set[str]] = {column: set() for column in cfg.where}
    for number, place, row in rows:
        if not isinstance(row, dict):
            raise DataError(
                f"{place}: expected an object with named fields, found {type(row).__name__}"
            )
        if _kept(row, cfg.where, seen, place):
            turns = _TURNS[cfg.format](row, place)
            _check_encodable(turns, place)
            examples.append(Example(f"{name}:{number}", tuple(turns)))
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


def _check_encodable(turns: list[Turn], place: str) -> None:
    for turn in turns:
        try:
            turn.content.encode("utf-8")  # JSON can spell half a surrogate pair: no character
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: a turn has half a character ({error.reason})") from error


def is_local(cfg: DataSourceConfig) -> bool:
    """Whether rows come from a file on this machine; a `revision` then says nothing about them."""
    path = Path(cfg.path)
    return cfg.path.startswith("builtin:") or path.exists() or path.suffix in _READERS


def _kept(
    row: dict[str, Any], where: dict[str, list[str]], seen: dict[str, set[str]], place: str
) -> bool:
    for column in where:
        if column not in row:
            raise DataError(
                f"{place}: no field {column!r}, which `where` filters by; it has {', '.join(row)}"
            )
        seen[column].add(str(row[column]))
    return all(str(row[column]) in allowed for column, allowed in where.items())


def _open(name: str, cfg: DataSourceConfig) -> tuple[Iterator[tuple[int, str, Any]], str]:
    """Rows as (number, place for messages, row), and where they were found."""
    if cfg.path.startswith("builtin:"):
        path = BUILTIN_DIR / cfg.path.removeprefix("builtin:")
        return _read_file(path, f"source {name}"), str(path)
    if is_local(cfg):
        return _read_file(Path(cfg.path), f"source {name}"), cfg.path
    return _read_hub(name, cfg), f"{cfg.path} at {cfg.revision}"


def _read_file(path: Path, owner: str) -> Iterator[tuple[int, str, Any]]:
    if path.suffix not in _READERS:
        raise DataError(f"{owner}: {path} is no {', '.join(_READERS)} file")
    if not path.is_file():
        raise DataError(
            f"{owner}: no file {path} (from {Path.cwd()}); give data_mix.sources.<name>.path=<file>"
        )
    return _READERS[path.suffix](path)


def _read_jsonl(path: Path) -> Iterator[tuple[int, str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            place = f"{path}, line {number + 1}"
            try:
                text = line.decode("utf-8")
                if not text.strip():
                    raise DataError(f"{place}: empty line; remove it")
                yield number, place, json.loads(text)
            except json.JSONDecodeError as error:
                cut = ", and the file ends inside it: was it written to the end?"
                cut = "" if line.endswith(b"\n") else cut
                raise DataError(
                    f"{place}, column {error.colno}: not JSON ({error.msg}){cut}"
                ) from error
            except UnicodeDecodeError as error:
                raise DataError(f"{place}, byte {error.start + 1}: not UTF-8") from error
            except RecursionError as error:
                raise DataError(f"{place}: brackets nested too deeply") from error


def _read_json(path: Path) -> Iterator[tuple[int, str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start + 1}: not UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{path}: brackets nested too deeply") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, found {type(rows).__name__}")
    for number, row in enumerate(rows):
        yield number, f"{path}, row {number + 1}", row


def _read_parquet(path: Path) -> Iterator[tuple[int, str, Any]]:
    import pyarrow.parquet  # comes with datasets; only training needs it

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    for number, row in enumerate(rows):
        yield number, f"{path}, row {number + 1}", row


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}


def _read_hub(name: str, cfg: DataSourceConfig) -> Iterator[tuple[int, str, Any]]:
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
            return _read_file(Path(local), f"source {name}")
        # A cache per commit: without the hub, the client takes any commit that its cache has.
        cache = str(Path(datasets.config.HF_DATASETS_CACHE) / f"effchal-{cfg.revision}")
        table = datasets.load_dataset(
            cfg.path, revision=cfg.revision, split=cfg.split, cache_dir=cache
        )
    except Exception as error:  # every client and transport of the hub raises its own
        raise DataError(_hub_message(name, cfg, error)) from error
    return ((number, f"{cfg.path}, row {number + 1}", row) for number, row in enumerate(table))


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


def _text(row: dict[str, Any], field: str, place: str, may_be_empty: bool = False) -> str:
    value = row.get(field)
    if value is None and may_be_empty:
        return ""
    if not isinstance(value, str):
        found = "nothing" if value is None else type(value).__name__
        raise DataError(f"{place}, field {field!r}: expected text, found {found}")
    if not value.strip() and not may_be_empty:
        raise DataError(f"{place}, field {field!r}: empty")
    return value


def _lima_turns(row: dict[str, Any], place: str) -> list[Turn]:
    texts = row.get("conversations")
    field = f"{place}, field 'conversations'"
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{field}: expected a list of texts, found {type(texts).__name__}")
    if len(texts) < 2 or len(texts) % 2:
        raise DataError(
            f"{field}: {len(texts)} turns; it takes question and answer in turn, "
            "ending with an answer"
        )
    for position, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"{field}: turn {position + 1} is empty")
    return [
        Turn("user" if position % 2 == 0 else "assistant", text)
        for position, text in enumerate(texts)
    ]


def _platypus_turns(row: dict[str, Any], place: str) -> list[Turn]:
    instruction = _text(row, "instruction", place)
    context = _text(row, "input", place, may_be_empty=True)
    answer = _text(row, "output", place)
    question = f"{instruction}\n\n{context}" if context.strip() else instruction
    return [Turn("user", question), Turn("assistant", answer)]


_TURNS = {DataFormat.lima: _lima_turns, DataFormat.platypus: _platypus_turns}
