"""A job of a sweep in a process of its own: `python -m effchal.sweeping.job train lora.r=4 …`.

The process ends with the one that started it, so that nothing works on a run unseen.
"""

import ctypes
import fcntl
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from effchal.cli.arguments import RUN_FILES
from effchal.cli.overrides import key_of, quote

PR_SET_PDEATHSIG = 1
LOCK_WAIT_S = 60.0  # for a process of the same job that is about to end


def command_of(command: str, overrides: list[str], folder: Path) -> list[str]:
    """The command line of a job: a new run in `folder`, or going on with the one that is there."""
    words = [word for word in overrides if not key_of(word).startswith("hydra.")]
    is_begun = (folder / RUN_FILES.get(command, "none")).is_file()
    place = f"{'resume_from' if is_begun else 'hydra.run.dir'}={quote(str(folder))}"
    return [sys.executable, "-m", "effchal.sweeping.job", command, *words, place]


def run_job(
    command: str,
    overrides: list[str],
    folder: Path,
    log: Path,
    environment: dict[str, str],
    started: Callable[[subprocess.Popen], None] = lambda process: None,
    cwd: str | None = None,
) -> int:
    """Do a job to its end, with what it prints in `log`. Returns its exit code.

    Args:
        environment: on top of this process's.
        started: gets the process.
        cwd: where relative paths of the overrides start; None = here.
    """
    wait_until_free(folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command_of(command, overrides, folder),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment | {"EFFCHAL_PARENT": str(os.getpid())},
            start_new_session=True,
        )
        started(process)
        try:
            return process.wait()
        except BaseException:  # the job saves and ends
            process.terminate()
            process.wait()
            raise


def wait_until_free(folder: Path) -> None:
    """Wait for a process that still has the folder's lock, such as one that saves after a signal.

    A process that does not end in time is left to the job itself, which refuses the folder.
    """
    end = time.monotonic() + LOCK_WAIT_S
    while time.monotonic() < end and is_locked(folder / ".lock"):
        time.sleep(0.2)


def is_locked(path: Path) -> bool:
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such folder, or no locks there
        return False
    return False


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone. Linux has this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ["EFFCHAL_PARENT"]):
        sys.exit("error: the sweep ended before this job began")


if __name__ == "__main__":
    end_with_parent()
    runpy.run_module("effchal", run_name="__main__", alter_sys=True)
