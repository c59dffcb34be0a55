"""The record of a run: metrics.jsonl always, and mirrors of it where they are asked for."""

import json
import logging
import math
from pathlib import Path
from typing import Any, TypeGuard

from effchal.config import TrackConfig
from effchal.config.choices import WandbMode
from effchal.runs import append_json_line, read_json_lines, write_atomic
from effchal.tracking.wandb_mirror import WandbMirror

log = logging.getLogger(__name__)


class Tracker:
    """Appends records to metrics.jsonl, and mirrors them to wandb. No failure stops a run."""

    def __init__(
        self, run_dir: Path, cfg: TrackConfig, run_name: str, config: dict[str, Any]
    ) -> None:
        self._path = run_dir / "metrics.jsonl"
        self._unwritten: list[dict[str, Any]] = []
        self._mirror = None
        if cfg.wandb is not WandbMode.off:
            self._mirror = WandbMirror(run_dir, cfg, run_name, config)

    def log(self, record: dict[str, Any]) -> None:
        """Keep one record: `step`, and metrics whose names end with their units."""
        self._unwritten.append(record)
        try:
            while self._unwritten:
                append_json_line(self._path, self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:  # a full disk, which may have space again later
            log.warning("metrics.jsonl cannot be written (%s); the run goes on", error)
        if self._mirror:
            self._mirror.put(("log", record))

    def log_bundle(self, folder: Path) -> None:
        if self._mirror:
            self._mirror.put(("bundle", folder))

    def summarise(self, results: dict[str, Any]) -> None:
        """What wandb shows of the whole run. None means that it was not measured."""
        if self._mirror:
            self._mirror.put(("summary", results))

    def close(self, wait_s: float) -> None:
        """Wait at most `wait_s` seconds for wandb."""
        if self._mirror:
            self._mirror.close(wait_s)


def rewind_metrics(run_dir: Path, step: int) -> float:
    """Drop damaged records, and those of steps after `step`, which the run will make again.

    Returns:
        The most seconds spent in any record, those of a killed process among them.
    """
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        return 0.0
    records = [record for record in read_json_lines(path) if is_number(record.get("step"))]
    kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
    write_atomic(path, "".join(kept))
    spent = (record.get("spent_s") for record in records)
    return max(filter(is_number, spent), default=0.0)


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)
