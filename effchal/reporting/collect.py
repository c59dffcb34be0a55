"""Run folders as they are found: whole, running, killed, damaged, or no run at all.

Nothing here imports torch or reads weights.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import yaml

from effchal.config import ConfigError
from effchal.reporting.helm_answers import helm_instances
from effchal.runs import flat, is_bundle, read_json_lines

# The files by which a folder is known as a run, and the command that leaves them. The first wins.
MARKS = {
    "scores.json": "helm",
    "prepared.json": "helm",  # without scores yet
    "results.json": "evaluate",
    "run.json": "train",
    "metrics.jsonl": "train",
    "plan.json": "train",
    "mix.json": "data",
}
RECORDS = {
    "helm": "scores.json",
    "evaluate": "results.json",
    "train": "run.json",
    "data": "mix.json",
}


@dataclass
class Run:
    """What the files of one run folder say. Files that are missing or damaged leave {} or []."""

    folder: Path
    kind: str  # the command: train, evaluate, helm or data
    sweep: Path | None = None  # the folder of the sweep that this run is a job of
    problems: list[str] = field(default_factory=list)  # one for each file that cannot be read
    config: dict[str, Any] = field(default_factory=dict)  # config.yaml by dotted key
    record: dict[str, Any] = field(default_factory=dict)  # the file of RECORDS
    plan: dict[str, Any] = field(default_factory=dict)  # plan.json
    mix: dict[str, Any] = field(default_factory=dict)  # mix.json

    @property
    def name(self) -> str:
        """The folder's name; the sweep's in front of it for a job of one."""
        return f"{self.sweep.name}/{self.folder.name}" if self.sweep else self.folder.name

    @property
    def status(self) -> str:
        """As the record says; else "running", or "no record" of a run that was killed."""
        status = self.record.get("status")
        if isinstance(status, str) and status != "running":
            return status
        if self.kind == "data" and self.record:
            return "finished"
        return "running" if is_at_work(self.folder) else "no record"

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl that are whole."""
        return self._lines("metrics.jsonl")

    @cached_property
    def instances(self) -> list[dict[str, Any]]:
        """The records of instances.jsonl that are whole; of a HELM run, HELM's in that form."""
        if self.kind != "helm":
            return self._lines("instances.jsonl")
        found, problems = helm_instances(self.folder, self.record, self.decoding)
        self.problems += problems
        return found

    @property
    def decoding(self) -> str:
        """The method that the config names."""
        return str(self.config.get("decoding.method") or "greedy")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            return read_json_lines(self.folder / name)
        except OSError as error:
            self.problems.append(f"{name} cannot be read: {error.strerror}")
            return []


@dataclass(frozen=True)
class NoRun:
    """A folder that holds no run, and why."""

    folder: Path
    reason: str


@dataclass
class Found:
    runs: list[Run] = field(default_factory=list)
    others: list[NoRun] = field(default_factory=list)

    @property
    def damaged(self) -> list[NoRun]:
        """Runs with files that cannot be read; they are in `runs`, too."""
        return [NoRun(run.folder, "; ".join(run.problems)) for run in self.runs if run.problems]


def collect(paths: Sequence[Path]) -> Found:
    """Every run in or below the paths, in the order of their folders' names, each once.

    Raises:
        ConfigError: a path is no folder.
    """
    found = Found()
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"no folder {path} (from {Path.cwd()})")
        for each in _walk(path):
            if (place := each.folder.resolve()) not in seen:
                seen.add(place)
                found.runs += [each] if isinstance(each, Run) else []
                found.others += [each] if isinstance(each, NoRun) else []
    return found


def _walk(folder: Path) -> Iterator[Run | NoRun]:
    """The runs below a folder; for a subtree without any, its top and what is wrong with it."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        yield NoRun(folder, f"cannot be read: {error.strerror}")
        return
    kind = next((kind for mark, kind in MARKS.items() if mark in names), None)
    if kind is not None and not is_bundle(folder):
        yield read_run(folder, kind)
        return
    inside: list[Run | NoRun] = []
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink() and not name.startswith("."):
            inside += _walk(path)
    if any(isinstance(each, Run) for each in inside):
        yield from inside
    elif is_bundle(folder):
        yield NoRun(folder, "a bundle; its run is the folder that it lies in")
    else:
        shown = [name for name in names if not name.startswith(".")]
        holds = f"no run; it holds {', '.join(shown[:3])}{' …' if len(shown) > 3 else ''}"
        yield NoRun(folder, holds if shown else "empty")


def read_run(folder: Path, kind: str) -> Run:
    """What the files of a run folder say; a damaged one is named in `problems`."""
    is_job = (folder.parent / "multirun.yaml").is_file()
    run = Run(folder, kind, folder.parent if is_job else None)
    run.record = _content(run, RECORDS[kind])
    run.plan = _content(run, "plan.json")
    run.mix = run.record if kind == "data" else _content(run, "mix.json")
    try:
        run.config = flat(_content(run, "config.yaml"))
    except RecursionError:
        run.problems.append("config.yaml holds itself")
    return run


def _content(run: Run, name: str) -> dict[str, Any]:
    """The mapping that a file holds; {} where it is missing, or damaged and said to be so."""
    try:
        text = (run.folder / name).read_text(encoding="utf-8")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = json.loads(text) if name.endswith(".json") else yaml.load(text, Loader=loader)
    except FileNotFoundError:
        return {}
    except OSError as error:
        run.problems.append(f"{name} cannot be read: {error.strerror}")
        return {}
    except (ValueError, yaml.YAMLError, RecursionError):
        run.problems.append(f"{name} is damaged")
        return {}
    except Exception as error:  # YAML's tags can raise any
        run.problems.append(f"{name} is damaged ({type(error).__name__})")
        return {}
    if not isinstance(content, dict):
        run.problems.append(f"{name} holds no mapping")
        return {}
    return content


def is_at_work(folder: Path) -> bool:
    """Whether the process that locked the folder is alive, on this machine."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        lock = folder / ".lock"
        process = psutil.Process(int(lock.read_text()))
        return process.create_time() <= lock.stat().st_mtime + 1
    return False


def number(record: dict[str, Any], *keys: str) -> float | None:
    """A finite number deep in a record: number(run.record, "plan", "hours", "actual")."""
    found: Any = record
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    try:
        return float(found) if math.isfinite(found) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def what_differs(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Config keys that are not the same in all runs, with each run's value (None: not there)."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: each for key, each in values.items() if any(one != each[0] for one in each)}
