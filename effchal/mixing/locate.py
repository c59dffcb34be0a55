"""Where the rows of a source lie: files on this machine, found or downloaded; no row is read."""

import glob
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from effchal.config import DataMixConfig, DataSourceConfig
from effchal.mixing.hub import Keys, commit_of, download
from effchal.mixing.readers import KINDS, DataError, is_readable
from effchal.mixing.where import compile_where

BUILTIN_DIR = Path(__file__).parent / "quickstart"
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}  # in names of files
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Located:
    files: tuple[Path, ...]  # in the order of the rows
    revision: str | None  # commit of a data set of the hub
    described: str  # for messages


def locate(name: str, cfg: DataSourceConfig, keys: Keys | None = None) -> Located:
    """The files of a source; those of the hub are downloaded.

    Args:
        keys: of a source that is in no data mix.

    Raises:
        DataError: missing, gated, unreachable, or nothing that can be read.
        ConfigError: a condition of `where` that is none.
    """
    keys = keys or Keys.of_mix(name)
    key = keys.others
    compile_where(cfg.where, f"{key}.where")  # refused before any download
    if "[" in cfg.split:  # the files of a slice are those of the whole
        raise DataError(f"{key}.split={cfg.split}: no part of a split; give {key}.max_rows=<rows>")
    if not is_local(cfg):
        commit = commit_of(name, cfg, keys)
        files = download(name, cfg, commit, keys)
        described = f"{cfg.path} at {commit[:12]}" + (f", {cfg.file}" if cfg.file else "")
    else:
        commit, described = None, cfg.path
        if cfg.path.startswith("builtin:"):
            files = (BUILTIN_DIR / cfg.path.removeprefix("builtin:"),)
        elif glob.has_magic(cfg.path) and not Path(cfg.path).exists():
            files = _matches(cfg.path)
        elif Path(cfg.path).is_dir():
            files = _in_folder(name, cfg, key)
        else:
            files = (Path(cfg.path),)
        if len(files) > 1:
            described += f" ({len(files)} files)"
    for path in files:
        if not path.is_file():
            raise DataError(
                f"source {name}: no file {path} (from {Path.cwd()}); give {keys.path}=<file>"
            )
        if not is_readable(path):
            raise DataError(f"source {name}: {path} is no {KINDS} file")
    return Located(files, commit, described)


def is_local(cfg: DataSourceConfig) -> bool:
    """Whether rows come from files on this machine; a `revision` then says nothing about them."""
    path = Path(cfg.path)
    return (
        cfg.path.startswith("builtin:")
        or path.exists()
        or is_readable(path)
        or HUB_ID.fullmatch(cfg.path) is None
    )


def pin_revisions(cfg: DataMixConfig) -> list[str]:
    """Write the commit of each data set of the hub into the config; the keys that it changes.

    Raises:
        DataError: the hub cannot be asked.
    """
    changed = []
    for name, source in cfg.sources.items():
        if is_local(source):
            continue
        commit = commit_of(name, source)
        if commit != source.revision:
            key = f"data_mix.sources.{name}.revision"
            named = "no commit" if source.revision is None else f"{source.revision}, no commit"
            log.warning("%s names %s; this run takes %s", key, named, f"{key}={commit}")
            source.revision = commit
            changed.append(key)
    return changed


def _matches(pattern: str) -> tuple[Path, ...]:
    files = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())
    if not files:
        raise DataError(f"no file matches {pattern} (from {Path.cwd()})")
    return tuple(files)


def _in_folder(name: str, cfg: DataSourceConfig, key: str) -> tuple[Path, ...]:
    """The files of a folder: of a saved data set, or all that can be read, below it too."""
    folder = Path(cfg.path)
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        has = _json_key(splits, "splits")
        if cfg.split not in has:
            raise DataError(
                f"source {name}: {folder} has no split {cfg.split}; it has {', '.join(has)}: "
                f"{key}.split=<one of them>"
            )
        folder /= cfg.split
    if (folder / "state.json").is_file():
        parts = _json_key(folder / "state.json", "_data_files")
        return tuple(folder / part["filename"] for part in parts)
    inside = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    visible = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    files = [path for path in visible if is_readable(path)]
    others = [path for path in files if _is_of_another_split(path, cfg.split)]
    if len(others) == len(files):
        what = f"only files of other splits than {cfg.split}: " if files else ""
        found = ", ".join(map(str, (others or visible)[:10])) or "nothing"
        raise DataError(
            f"source {name}: {folder} has no {KINDS} file to read; it has {what}{found}"
        )
    if others:
        left_out = ", ".join(map(str, others))
        log.warning("source %s: split=%s leaves out %s", name, cfg.split, left_out)
    return tuple(folder / path for path in files if path not in others)


def _is_of_another_split(path: Path, split: str) -> bool:
    words = set(re.split(r"[\W_]+", str(path).lower()))
    return split not in words and not words.isdisjoint(SPLITS)


def _json_key(path: Path, key: str) -> list:
    try:
        found: list = json.loads(path.read_bytes())[key]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a saved data set of `datasets` ({error!r})") from error
    return found
