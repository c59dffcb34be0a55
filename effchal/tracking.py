"""The record of a run: metrics.jsonl always, wandb when asked, progress on the terminal."""

import contextlib
import json
import logging
import os
import platform
import queue
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from effchal.config import TrackConfig
from effchal.config.choices import WandbMode

log = logging.getLogger(__name__)


class Tracker:
    """Appends one JSON object a record to metrics.jsonl; nothing else can stop or slow a run."""

    def __init__(
        self, run_dir: Path, cfg: TrackConfig, run_name: str, config: dict[str, Any]
    ) -> None:
        self._file = (run_dir / "metrics.jsonl").open("a", encoding="utf-8")
        self._mirror = None
        if cfg.wandb is not WandbMode.off:
            self._mirror = _WandbMirror(run_dir, cfg, run_name, config)

    def log(self, record: dict[str, Any]) -> None:
        """One record; it has `step` and the metrics by name, units in the names."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:  # a full disk
            log.warning("metrics.jsonl cannot be written (%s); the run goes on", error)
        if self._mirror:
            self._mirror.put(("log", record))

    def log_bundle(self, folder: Path) -> None:
        if self._mirror:
            self._mirror.put(("bundle", folder))

    def close(self, wait_s: float) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        if self._mirror:
            self._mirror.close(wait_s)


class _WandbMirror:
    """A thread of its own talks to wandb, so that a slow or dead network is never waited for."""

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
    """Drop the records of steps after `step`, which will be made again.

    Returns:
        The most seconds that any record says were spent: those of a killed process too.
    """
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        return 0.0
    kept, spent_s = [], 0.0
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that a kill cut in half
        spent_s = max(spent_s, record.get("spent_s", 0.0))
        if record["step"] <= step:
            kept.append(line + "\n")
    parts = path.with_suffix(".tmp")
    parts.write_text("".join(kept), encoding="utf-8")
    parts.replace(path)
    return spent_s


@contextlib.contextmanager
def progress_bar(total: int, done: int, unit: str) -> Iterator[Any]:
    """A function advance(done) that moves a bar on a terminal; log lines scroll above it."""
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
    """Of the GPU's allocator, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def git_commit() -> str | None:
    """Of the checkout this package runs from, or as an image's build was told; None for another wheel."""
    if os.environ.get("EFFCHAL_GIT_COMMIT"):
        return os.environ["EFFCHAL_GIT_COMMIT"]
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
