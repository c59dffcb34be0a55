"""The manifest of a sweep: its jobs by their overrides, and every try of each.

<sweep>/sweep.json        the command, the jobs, the rungs of a common budget
<sweep>/.jobs/<n>.jsonl   when each try of a job began and how it ended, written by that try

What a run came to stands in its own record alone.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.runs import append_json_line, is_bundle, read_json_lines, read_record, write_atomic
from effchal.tracking.ending import read_run
from effchal.tracking.sweep import SweepJob, changes_of

SWEEP_FILE, TRIES = "sweep.json", ".jobs"
LEFT_BY_A_SWEEP = {"multirun.yaml", SWEEP_FILE, TRIES, ".lock"}  # beside the folders of its jobs
NODE = "EFFCHAL_NODE"  # Ray's name of the node that a try runs on
MOST_TRIES = 2  # of a job that fails
begun: "list[Manifest]" = []  # by this process, for the table at the end


class State(Enum):
    """Where a job stands."""

    new = "new"
    done = "done"
    interrupted = "interrupted"  # or killed
    failed = "failed"
    refused = "refused"  # its config cannot be run


@dataclass(frozen=True)
class Failure:
    """Why a try ended badly."""

    state: State
    reason: str


@dataclass
class Manifest:
    """The jobs of a sweep. A job's number is the name of its folder."""

    folder: Path
    command: str
    jobs: dict[int, list[str]] = field(default_factory=dict)  # overrides by number
    rungs: list[dict[str, Any]] = field(default_factory=list)  # of successive halving

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Raises ConfigError for a damaged one, or none."""
        path = folder / SWEEP_FILE
        try:
            record = read_record(path)
            jobs = {int(number): list(words) for number, words in record["jobs"].items()}
            return cls(folder, str(record["command"]), jobs, list(record["rungs"]))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path} is damaged; take another folder") from error

    def save(self) -> None:
        record = asdict(self)
        del record["folder"]
        write_atomic(self.folder / SWEEP_FILE, json.dumps(record, indent=2) + "\n")

    def number_of(self, overrides: list[str], identity: Callable[[list[str]], list[str]]) -> int:
        """The number of a job, by the overrides that name it; a new one gets the next number."""
        named = identity(overrides)
        for number, words in self.jobs.items():
            if identity(words) == named:
                self.jobs[number] = overrides
                return number
        number = max(self.jobs, default=-1) + 1
        self.jobs[number] = overrides
        return number

    def differs(self, number: int) -> str:
        """What this job has and not all jobs have."""
        jobs = {self.folder_of(n): SweepJob(words) for n, words in self.jobs.items()}
        return " ".join(changes_of(jobs)[self.folder_of(number)])

    def folder_of(self, number: int) -> Path:
        return self.folder / str(number)

    def log_of(self, number: int) -> Path:
        """What a job prints that runs in a process of its own."""
        return self.folder / TRIES / f"{number}.log"

    def tries(self, number: int) -> list[dict[str, Any]]:
        """The tries of a job, oldest first. One without `ended` was killed, or is at work."""
        tries: list[dict[str, Any]] = []
        for record in read_json_lines(self.folder / TRIES / f"{number}.jsonl"):
            if "ended" in record and tries:
                tries[-1] |= record
            elif "began" in record:
                tries.append(record)
        return tries

    def failures(self, number: int) -> int:
        """How often a job failed; a config that was refused cost nothing and does not count."""
        return sum(each.get("state") == State.failed.value for each in self.tries(number))

    def state(self, number: int, hours: Callable[[], float] = lambda: 0.0) -> State:
        """Where a job stands, by its run's own record.

        Args:
            hours: asked for a run that its budget stopped: with more, it has more to do.
        """
        folder = self.folder_of(number)
        record = read_run(folder)
        last = next(iter(self.tries(number)[::-1]), {})
        if record is None:
            if last.get("state") in (State.failed.value, State.refused.value):
                return State(last["state"])
            return State.interrupted if (folder / "config.yaml").is_file() else State.new
        status = record.get("status")
        if status == "failed":
            return State.failed
        has_bundle = is_bundle(folder / "bundle")
        if status == "finished" and has_bundle:
            return State.done
        if status == "stopped_by_budget" and has_bundle:
            is_over = hours() * 3600 <= float(record.get("limit_s") or 0.0)
            return State.done if is_over else State.interrupted
        return State.interrupted

    def reason(self, number: int) -> str | None:
        """Why a job's last try failed, or that it was killed; None if it ended well."""
        last = next(iter(self.tries(number)[::-1]), None)
        if last is None:
            return None
        if "ended" not in last:
            return "killed; the same command goes on with it"
        return last["reason"]

    def sweep_jobs(self) -> dict[Path, SweepJob]:
        """The jobs that were begun, for the table at the end."""
        return {
            self.folder_of(number): SweepJob(words, self.reason(number))
            for number, words in self.jobs.items()
            if self.tries(number)
        }


def jobs_of_sweep() -> dict[Path, SweepJob]:
    """The jobs of the sweep that this process did, those of other processes among them."""
    return {folder: job for each in begun for folder, job in each.sweep_jobs().items()}


def sweep_of(folder: Path) -> Path | None:
    """The sweep that a folder is a job of; None for any other folder."""
    folder = folder.absolute()
    is_job = folder.name.isdigit() and (folder.parent / SWEEP_FILE).is_file()
    return folder.parent if is_job else None


def how_to_go_on(command: str, folder: Path) -> str:
    """What does the rest of an interrupted run, and of the sweep where it is a job of one."""
    sweep = sweep_of(folder)
    if sweep is None:
        return f"effchal {command} resume_from={folder}"
    return f"the same command with hydra.sweep.dir={sweep}"


def own_overrides(folder: Path) -> str:
    """What this job of a sweep has and not all of its jobs have; empty for any other folder."""
    sweep = sweep_of(folder)
    if sweep is None:
        return ""
    with contextlib.suppress(ConfigError, KeyError):
        return Manifest.load(sweep).differs(int(folder.name))
    return ""


@contextlib.contextmanager
def recorded_try(folder: Path, failure_of: Callable[[BaseException], Failure | None]) -> Iterator:
    """Keep when a try of a sweep's job began and how it ended. Any other run is left alone."""
    sweep = sweep_of(folder)
    if sweep is None:
        yield
        return
    path = sweep / TRIES / f"{folder.name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    device = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = {"host": platform.node(), "process": os.getpid(), "device": device}
    if NODE in os.environ:
        where["node"] = os.environ[NODE]
    append_json_line(path, {"began": time.time(), **where})
    failure = None
    try:
        yield
    except BaseException as error:
        failure = failure_of(error)
        raise
    finally:
        state, reason = (None, None) if failure is None else (failure.state.value, failure.reason)
        append_json_line(path, {"ended": time.time(), "state": state, "reason": reason})
