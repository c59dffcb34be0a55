"""Folders of the cache, built whole or not at all, and Arrow files in them, memory-mapped."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from effchal import __version__
from effchal.runs import cache_folder, write_atomic

FORMAT = 2  # of what is kept; a change of its meaning needs another number
META = "meta.json"  # written last
ABANDONED_S = 86400  # no builder takes longer
log = logging.getLogger(__name__)


def key_of(*parts: Any) -> str:
    """A name for what these parts decide; parts are what JSON can say."""
    text = json.dumps([FORMAT, __version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cached(
    kind: str, key: str, build: Callable[[Path], dict[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """The folder of this key and its meta data; `build` fills it if it is not there.

    It is filled under another name and renamed, so no other process sees half of it. Two
    builders at once both build, and the first to end wins.

    Args:
        build: writes files into a folder, and returns the meta data.
    """
    place = _place(kind)
    folder = place / key
    meta = _meta_of(folder)
    if meta is not None:
        return folder, meta
    for left in place.glob(".*_*"):  # by a builder that was killed
        if left.stat().st_mtime < time.time() - ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{key[:8]}_", dir=place))
    try:
        meta = build(made)
        sizes = {path.name: path.stat().st_size for path in made.iterdir()}
        write_atomic(made / META, json.dumps({"meta": meta, "sizes": sizes}))
        try:
            made.rename(folder)  # fails where there is one
        except OSError:
            if _meta_of(folder) is None:  # a damaged one, not another builder's
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder, meta


def _meta_of(folder: Path) -> dict[str, Any] | None:
    """What `build` returned; None for a folder that is not there, or lacks a part of a file."""
    try:
        kept = json.loads((folder / META).read_text())
        whole = all((folder / name).stat().st_size == size for name, size in kept["sizes"].items())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return kept["meta"] if whole else None


def _place(kind: str) -> Path:
    """Where folders of a kind lie; without a writable cache, a temporary folder."""
    place = cache_folder() / "data" / kind
    try:
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK):
            return place
        reason = "read-only"
    except OSError as error:
        reason = str(error)
    temporary = Path(tempfile.gettempdir()) / f"effchal-data-{os.getuid()}" / kind
    log.warning("no cache at %s (%s); data is kept in %s", place, reason, temporary)
    temporary.mkdir(parents=True, exist_ok=True)
    return temporary


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def mapped_table(path: Path) -> pa.Table:
    """The rows of a file, read when they are asked for."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
