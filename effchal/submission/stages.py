"""The steps of a hand-in as processes that run the code of a folder, not the code of this process.

So what is measured is what is handed in.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.cli.overrides import quote
from effchal.config import ConfigError, ConformanceConfig
from effchal.conformance_checks.run import CHECKS, connect, report, run_checks
from effchal.conformance_checks.verdict import Verdict
from effchal.evaluation.helm.processes import PATIENCE_S, child, environment_without, tail
from effchal.runs import python_path, write_atomic
from effchal.serving.ready import free_port, wait_ready
from effchal.tracking.terminal import progress


class StageError(Exception):
    """A step has failed; what it says stands above, or is in the message."""


@contextlib.contextmanager
def one_line_ends(what_stays: Callable[[], str] = str) -> Iterator[None]:
    """End a command with one line where a step fails or a signal comes; its processes end, too.

    Args:
        what_stays: more to say, of what was done before.
    """
    # As an exception, so that the child processes are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    except StageError as error:
        sys.exit(f"error: {error}{what_stays()}")
    except KeyboardInterrupt:
        print(f"interrupted{what_stays()}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


@dataclass(frozen=True)
class Code:
    """The program of a folder that has `effchal` and `conf`."""

    folder: Path
    git_commit: str | None  # of that code, for the records

    def run(self, command: str, words: list[str], inside: bool = True) -> None:
        """Run a command of the program on this screen.

        Args:
            inside: in the folder, so that records name what is handed in without the folders of
                this machine. Otherwise where this process runs.

        Raises:
            StageError: it failed.
        """
        # A session of its own: Ctrl-C reaches this process alone, which then ends that one.
        with child(
            self.command(command, words),
            None,
            signal.SIGTERM,
            patience_s=None,
            env=self.environment(),
            cwd=self.folder if inside else None,
            start_new_session=True,
        ) as process:
            code = process.wait()
        if code:
            raise StageError(f"effchal {command} ended with exit code {code}; see above")

    def command(self, command: str, words: list[str]) -> list[str]:
        # -P: or an `effchal` of the working directory would win.
        return [sys.executable, "-P", "-m", f"effchal.{command}", *words]

    def environment(self) -> dict[str, str]:
        """Without the token, so that the server answers everybody, and without compiled files."""
        changes = {
            "PYTHONPATH": python_path(self.folder.absolute()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "EFFCHAL_GIT_COMMIT": self.git_commit or "",
        }
        return environment_without("EFFCHAL_TOKEN") | changes


def train(code: Code, run_dir: Path, words: list[str]) -> None:
    """Train in `run_dir`. A config.yaml that lies there alone is the config of a new run.

    Raises:
        StageError: it failed.
    """
    code.run("train", [*words, f"hydra.run.dir={quote(str(run_dir))}"], inside=False)


def evaluate(code: Code, bundle: str, run_dir: Path, words: list[str]) -> dict[str, Any]:
    """Evaluate a bundle; the content of results.json.

    Args:
        bundle: its folder, from the code's.

    Raises:
        StageError: it failed.
    """
    where = [f"bundle={quote(bundle)}", f"hydra.run.dir={quote(str(run_dir.absolute()))}"]
    code.run("evaluate", [*where, *words])
    return json.loads((run_dir / "results.json").read_text(encoding="utf-8"))


def conform(code: Code, bundle: str, words: list[str], record: Path, log: Path) -> list[Verdict]:
    """Serve a bundle, check every rule of the protocol, and end the server with SIGTERM.

    Args:
        bundle: its folder, from the code's.
        words: more overrides of the server.
        record: the file that takes what was sent and received.
        log: the file that takes what the server prints.

    Raises:
        StageError: the server does not start, or does not end well.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    where = [f"bundle={quote(bundle)}", f"serve.port={port}"]
    where.append(f"hydra.run.dir={quote(str(log.parent.absolute()))}")
    command = code.command("serve", [*where, *words])
    environment = code.environment()
    with child(command, log, signal.SIGINT, env=environment, cwd=code.folder) as server:
        with progress("starting the server"):
            trouble = wait_ready(url, PATIENCE_S, lambda: server.poll() is None)
        if trouble:
            raise StageError(f"{trouble}; the end of {log}:\n{tail(log)}")
        verdicts = checked(url)
        server.send_signal(signal.SIGTERM)
        try:
            exit_code = server.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            exit_code = None
    if exit_code != 0:
        ended = "did not end" if exit_code is None else f"ended with exit code {exit_code}"
        raise StageError(f"the server {ended} after SIGTERM; the end of {log}:\n{tail(log)}")
    write_atomic(record, json.dumps(report(url, verdicts), indent=1) + "\n")
    return verdicts


def checked(url: str) -> list[Verdict]:
    """What each check of `effchal conformance` finds.

    Raises:
        StageError: the server does not answer.
    """
    try:
        server = connect(ConformanceConfig(url=url), "")
    except ConfigError as error:
        raise StageError(str(error)) from error
    verdicts = run_checks(server, CHECKS)
    server.close()
    return verdicts
