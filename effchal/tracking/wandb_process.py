"""The process behind `WandbMirror`: it follows a run's folder and sends what it finds to wandb.

Everything that it sends stands in the folder: config.yaml, metrics.jsonl, run.json, the bundle,
the data mix, and an evaluation's results. The end of its standard input is the run's end.

**Steps.** wandb drops a row whose step is not above the last one. A run that is resumed after a
kill goes back to its checkpoint, and does later steps again. So wandb itself counts
the rows, and charts have `train/step` as their x-axis. A step that is done again is a further row
at the same place, and the last one counts. wandb's own rewind (`resume_from`) needs the
network and an account that has it, so it is no way for an offline run. An offline run leaves
one folder for each of its processes, all with the same id and resume="allow". `wandb sync` of
them, oldest first, appends one after another.
"""

import json
import os
import re
import select
import shlex
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from effchal.tracking.names import (
    RESULT_COLUMNS,
    RESULTS,
    SAMPLE_COLUMNS,
    SAMPLES,
    STEP,
    ChartRows,
    figure_name,
    is_number,
    result_rows,
    result_summary,
    run_summary,
)

POLL_S = 0.5
PROBE_S = 2.0  # a server that says nothing for so long counts as dead
INIT_S = 30
LONGEST_END_S = 3600.0  # for sending after the run has ended
NICENESS = 10  # the run's steps come first


class Tail:
    """Complete lines of metrics.jsonl that were appended since the last look."""

    def __init__(self, path: Path) -> None:
        # Kept open: a resumed run replaces the file, and its own mirror reads the new one.
        self._file = path.open("rb") if path.is_file() else None
        self._position = 0

    def records(self, end: int | None = None) -> list[dict[str, Any]]:
        """New records; only those that end before the byte `end`, if it is given."""
        if self._file is None:
            return []
        self._file.seek(self._position)
        text = self._file.read(-1 if end is None else end - self._position)
        text = text[: text.rfind(b"\n") + 1]
        self._position += len(text)
        records = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and is_number(record.get("step")):
                records.append(record)
        return records


class Mirror:
    """One wandb run, and what is sent to it."""

    def __init__(self, job: dict[str, Any], messages: Any) -> None:
        """Start the run at wandb, which takes seconds. Raises whatever wandb raises."""
        self._job, self._messages = job, messages
        self._dir = Path(job["run_dir"])
        self._tail = Tail(self._dir / "metrics.jsonl")
        self._config = read_config(self._dir)
        self._run, self._is_online = self._start()
        self._run.define_metric(STEP)
        for section in ("train", "validation", "speed", "memory", "samples"):
            self._run.define_metric(f"{section}/*", step_metric=STEP)

    def _start(self) -> tuple[Any, bool]:
        import wandb

        job = self._job
        names = {key: job[key] for key in ("id", "name", "group", "job_type", "project")}
        common: dict[str, Any] = names | {"config": self._config, "dir": str(self._dir)}
        common |= {"resume": "allow"}
        common["settings"] = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_S,
            program=f"effchal {job['job_type']}",
            x_stats_pid=os.getppid(),  # the run's
        )
        failure = None
        if job["mode"] == "online":
            try:
                probe(wandb.setup().settings.base_url)
                run = wandb.init(mode="online", **common)
                say(self._messages, folder=folder_of(run), info=f"wandb: {run.url}")
                return run, True
            except Exception as error:  # no key, no network: keep the record on disk
                failure = first_line(error)
        run = wandb.init(mode="offline", **common)
        say(self._messages, folder=folder_of(run))
        if failure is not None:
            say(
                self._messages,
                warning=f"wandb cannot go online ({failure}); the run is recorded offline, "
                f"and `{sync_command(run)}` sends it later",
            )
        return run, False

    def follow(self) -> None:
        """Send records as they come, until the run ends."""
        rows = ChartRows()
        for record in self._tail.records(end=self._job["first_byte"]):
            rows.row(record)  # sent by an earlier process
        is_running = True
        while is_running:
            is_running = not wait_for_end(POLL_S)
            for record in self._tail.records():
                self._send(rows, record)

    def _send(self, rows: ChartRows, record: dict[str, Any]) -> None:
        row = rows.row(record)
        if not record.get("samples"):
            return self._run.log(row)
        import wandb

        table = wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows.samples)
        self._log_table(SAMPLES, table, row)

    def _log_table(self, name: str, table: Any, row: dict[str, Any]) -> None:
        try:
            self._run.log(row | {name: table})
        except Exception as error:  # online, a table needs an answer of the server
            say(self._messages, warning=f"wandb: no table {name} ({first_line(error)})")
            self._run.log(row)

    def end_training(self) -> int:
        """Send how the run ended. Returns its exit code for wandb."""
        try:
            record = json.loads((self._dir / "run.json").read_text())
        except (OSError, ValueError):
            self._run.summary.update({"status": "killed"})
            return 1
        self._run.summary.update(run_summary(record))
        mix = [self._dir / name for name in ("mix.json", "mix.md")]
        self._artifact("mix", "dataset", [path for path in mix if path.is_file()], is_input=True)
        if (self._dir / "bundle" / "manifest.json").is_file():
            self._artifact("bundle", "model", [self._dir / "bundle"], is_input=False)
        return int(record.get("status") in ("failed", "interrupted"))

    def end_evaluation(self) -> int:
        """Send an evaluation's results and figures. Returns its exit code for wandb."""
        import wandb

        results = json.loads((self._dir / "results.json").read_text())
        entries = results.get("entries", {})
        self._run.summary.update({"status": results["status"]} | result_summary(entries))
        figures = {figure_name(path.stem): path for path in self._dir.glob("*.png")}
        self._run.log({name: wandb.Image(str(path)) for name, path in figures.items()})
        table = wandb.Table(columns=list(RESULT_COLUMNS), data=result_rows(entries))
        self._log_table(RESULTS, table, {})
        if self._config.get("bundle") and self._is_online:
            self._artifact("bundle", "model", [Path(self._config["bundle"])], is_input=True)
        return 0

    def _artifact(self, kind: str, type_: str, paths: list[Path], is_input: bool) -> None:
        """Declare what the run has read or made.

        wandb knows the same content of the same name again. So a training run and an
        evaluation of its bundle meet at one artifact, wherever the bundle lies. Offline,
        wandb takes no inputs; what would be one counts as made by the run.
        """
        import wandb

        name = re.sub(r"[^a-zA-Z0-9._-]", "-", self._name_of(paths))
        try:
            artifact = wandb.Artifact(f"{kind}-{name}"[:128], type=type_)
            for path in paths:
                if path.is_dir():
                    artifact.add_dir(str(path), skip_cache=True)
                else:
                    artifact.add_file(str(path), skip_cache=True)
            declare = self._run.use_artifact if is_input and self._is_online else None
            (declare or self._run.log_artifact)(artifact)
        except Exception as error:  # the rest is still worth sending
            say(self._messages, warning=f"wandb: no artifact of {paths[0]} ({first_line(error)})")

    def _name_of(self, paths: list[Path]) -> str:
        """The run's name; of a bundle, that of the run that made it."""
        if paths and (paths[0] / "config.yaml").is_file():
            return str(read_config(paths[0])["name"])
        return str(self._config["name"])

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)
        if self._job["mode"] == "offline":
            command = sync_command(self._run)
            say(self._messages, info=f"wandb: recorded offline; to send it: {command}")


def say(messages: Any, **message: str) -> None:
    """Tell the run of it; where the run has ended, the log."""
    try:
        print(json.dumps(message), file=messages, flush=True)
    except OSError:
        print(json.dumps(message), file=sys.stderr, flush=True)


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def folder_of(run: Any) -> str:
    """What `wandb sync` takes: the folder that holds `files`."""
    return str(Path(run.dir).parent)


def sync_command(run: Any) -> str:
    return f"wandb sync {shlex.quote(folder_of(run))}"


def read_config(run_dir: Path) -> dict[str, Any]:
    """The resolved config of a run or bundle as plain values."""
    with (run_dir / "config.yaml").open(encoding="utf-8") as file:
        return yaml.safe_load(file)


def probe(url: str) -> None:
    """Raises OSError if nothing answers there: wandb itself would try for a minute and longer."""
    try:
        urllib.request.urlopen(url, timeout=PROBE_S).close()
    except urllib.error.HTTPError:
        pass  # an answer
    except urllib.error.URLError as error:
        if not isinstance(error.reason, OSError):
            raise
        raise type(error.reason)(f"{url}: {error.reason}") from error


def wait_for_end(seconds: float) -> bool:
    """Whether the run has ended, after at most so many seconds."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable)


def give_up_later() -> None:
    """End this process some time after the run, also if the network never comes back."""

    def work() -> None:
        while not wait_for_end(60.0):
            pass
        time.sleep(LONGEST_END_S)
        os._exit(1)

    threading.Thread(target=work, daemon=True).start()


def main() -> None:
    job = json.loads(sys.argv[1])
    # wandb prints, and starts processes that inherit what this one has open.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.nice(NICENESS)
    os.environ.setdefault("WANDB_DATA_DIR", str(Path(job["run_dir"], "wandb")))  # copies go there
    give_up_later()
    try:
        mirror = Mirror(job, messages)
        mirror.follow()
        is_training = job["job_type"] == "train"
        mirror.finish(mirror.end_training() if is_training else mirror.end_evaluation())
    except Exception as error:  # the mirror may break; the run goes on
        say(messages, warning=f"wandb stopped ({first_line(error)}); the run's files are complete")
        raise


if __name__ == "__main__":
    main()
