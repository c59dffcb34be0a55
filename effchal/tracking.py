"""The record of a run: metrics.jsonl always, wandb if asked for, progress on the terminal."""

import contextlib
import json
import logging
import math
import queue
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import torch

from effchal.config import TrackConfig
from effchal.config.choices import WandbMode
from effchal.runs import append_json_line, read_json_lines, write_atomic

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
            self._mirror = _WandbMirror(run_dir, cfg, run_name, config)

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


class _WandbMirror:
    """Talks to wandb from a thread of its own, so that a run never waits for the network."""

    def __init__(
        self, run_dir: Path, cfg: TrackConfig, run_name: str, config: dict[str, Any]
    ) -> None:
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._work, args=(run_dir, cfg, run_name, config), name="wandb", daemon=True
        )
        self._thread.start()

    def put(self, item: tuple[str, Any]) -> None:
        self._queue.put(item)

    def close(self, wait_s: float) -> None:
        self._queue.put(("close", None))
        self._thread.join(wait_s)
        if self._thread.is_alive():
            log.warning("wandb did not finish within %.0f s; metrics.jsonl is complete", wait_s)

    def _work(self, run_dir: Path, cfg: TrackConfig, run_name: str, config: dict[str, Any]) -> None:
        try:
            import wandb

            run = self._start(wandb, run_dir, cfg, run_name, config)
            while True:
                kind, value = self._queue.get()
                if kind == "log":
                    run.log(
                        {key: v for key, v in value.items() if key != "step"}, step=value["step"]
                    )
                elif kind == "summary":  # else it keeps the last value logged, of any step
                    shown = {k: "not measured" if v is None else v for k, v in value.items()}
                    run.summary.update(shown)
                elif kind == "bundle":
                    artifact = wandb.Artifact("bundle", type="model")
                    artifact.add_dir(str(value))
                    run.log_artifact(artifact)
                else:
                    run.finish()
                    return
        except Exception as error:  # the mirror may break; the run goes on
            log.warning("wandb stopped (%s); metrics.jsonl goes on", error)

    @staticmethod
    def _start(
        wandb: Any, run_dir: Path, cfg: TrackConfig, run_name: str, config: dict[str, Any]
    ) -> Any:
        common = {
            "project": cfg.project,
            "name": run_name,
            "config": config,
            "dir": str(run_dir),
            "group": run_dir.name,
        }
        if cfg.wandb is WandbMode.online:
            try:
                settings = wandb.Settings(init_timeout=20, silent=True)
                return wandb.init(mode="online", settings=settings, **common)
            except Exception as error:  # no key, no network: keep the record on disk
                log.warning(
                    "wandb cannot go online (%s); recording offline, `wandb sync` sends it later",
                    error,
                )
        return wandb.init(mode="offline", settings=wandb.Settings(silent=True), **common)


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


@contextlib.contextmanager
def progress_bar(total: int, done: int, unit: str) -> Iterator[Any]:
    """Show a bar on a terminal, with log lines above it. Yields advance(done), which moves it."""
    from rich.console import Console
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    root = logging.getLogger()
    plain = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    rich_handler = RichHandler(
        console=console, show_path=False, highlighter=NullHighlighter(), log_time_format="%H:%M:%S"
    )
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(unit, total=total, completed=done)
        for handler in plain:
            root.removeHandler(handler)
        root.addHandler(rich_handler)
        try:
            yield lambda done: bar.update(task, completed=done)
        finally:
            root.removeHandler(rich_handler)
            for handler in plain:
                root.addHandler(handler)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the GPU's allocator so far, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
