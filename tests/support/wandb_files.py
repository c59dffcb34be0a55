"""Reads what wandb recorded offline, with `wandb_internal_pb2`, a private part of wandb 0.31.

Its files are logs in LevelDB's format behind a header of seven bytes: blocks of 32 KiB, with
pieces of records that begin with a checksum (4 bytes), a length (2) and a kind (1). wandb has
no reader in Python. A kill may cut a file's end; what stands before it is read.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32 * 1024
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """One folder wandb/offline-run-*."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, tuple[str, set[str]]] = field(default_factory=dict)  # type, file names
    x_axes: dict[str, str] = field(default_factory=dict)  # by pattern of metrics
    exit_code: int | None = None

    def table(self, key: str) -> dict[str, Any]:
        """The last table under a key: `columns` and `data`."""
        paths = [row[f"{key}/path"] for row in self.history if f"{key}/path" in row]
        return json.loads((self.folder / "files" / paths[-1]).read_text())


def offline_runs(run_dir: Path) -> list[OfflineRun]:
    """What each process of a run has recorded, oldest first."""
    return [read(folder) for folder in sorted((run_dir / "wandb").glob("offline-run-*"))]


def records(content: bytes) -> Iterator[bytes]:
    """Whole records of a file."""
    at, record = 7, b""
    while at + 7 <= len(content):
        left = BLOCK - at % BLOCK
        if left < 7:  # no space for the beginning of a piece
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record = (b"" if kind in (FULL, FIRST) else record) + content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST) and at <= len(content):
            yield record


def read(folder: Path) -> OfflineRun:
    (path,) = folder.glob("*.wandb")
    run = OfflineRun(folder)
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        add(run, record)
    return run


def add(run: OfflineRun, record: Any) -> None:
    match record.WhichOneof("record_type"):
        case "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            run.group, run.job_type = record.run.run_group, record.run.job_type
            run.config |= plain(record.run.config.update)
        case "history":
            run.history.append(plain(record.history.item))
        case "summary":
            run.summary |= plain(record.summary.update)
        case "artifact":
            files = {entry.path for entry in record.artifact.manifest.contents}
            run.artifacts[record.artifact.name] = (record.artifact.type, files)
        case "metric":
            run.x_axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        case "exit":
            run.exit_code = record.exit.exit_code


def plain(items: Any) -> dict[str, Any]:
    found = {}
    for item in items:
        name = item.key or "/".join(item.nested_key)
        found[name] = json.loads(item.value_json)
    return found
