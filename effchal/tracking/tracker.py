"""The record of a run: metrics.jsonl always, and mirrors of it where they are asked for."""

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

from effchal.config import ConfigError, TrackConfig
from effchal.config.choices import WandbMode
from effchal.runs import append_json_line, read_json_lines, write_atomic
from effchal.tracking.names import is_number
from effchal.tracking.tensorboard import TensorBoardMirror
from effchal.tracking.wandb_mirror import start_mirror

log = logging.getLogger(__name__)


def check_tracking(cfg: TrackConfig) -> None:
    """Raises ConfigError if a package is missing that track.* asks for."""
    wants_wandb = cfg.wandb is not WandbMode.off
    wanted = {"wandb": f"track.wandb={cfg.wandb.value}"} if wants_wandb else {}
    wanted |= {"tensorboardX": "track.tensorboard=true"} if cfg.tensorboard else {}
    for package, key in wanted.items():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{key} needs {package}; pip install 'effchal[train]'")


class Tracker:
    """Appends records to metrics.jsonl, and mirrors them. No failure stops a run."""

    def __init__(self, run_dir: Path, cfg: TrackConfig, run_name: str, step: int = 0) -> None:
        """Go on behind what metrics.jsonl holds.

        Args:
            step: done so far. The folder has the run's config.yaml.
        """
        self._path = run_dir / "metrics.jsonl"
        self._unwritten: list[dict[str, Any]] = []
        self._tensorboard = TensorBoardMirror(run_dir, step) if cfg.tensorboard else None
        if self._tensorboard:
            for record in read_json_lines(self._path):
                self._tensorboard.seen(record)
        self._wandb = start_mirror(run_dir, cfg, run_name, "train")

    def log(self, record: dict[str, Any]) -> None:
        """Keep one record: `step`, and metrics whose names end with their units."""
        self._unwritten.append(record)
        try:
            while self._unwritten:
                append_json_line(self._path, self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:  # a full disk, which may have space again later
            log.warning("metrics.jsonl cannot be written (%s); the run goes on", error)
        if self._tensorboard:
            try:
                self._tensorboard.log(record)
            except OSError as error:
                log.warning("TensorBoard's file cannot be written (%s)", error)

    def close(self) -> None:
        """End the mirrors: a few seconds at most. run.json and the bundle are written before."""
        if self._tensorboard:
            try:
                self._tensorboard.close()
            except OSError as error:
                log.warning("TensorBoard's file cannot be written (%s)", error)
        if self._wandb:
            self._wandb.close()


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
