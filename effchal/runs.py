"""One process at a time works on a run folder."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from effchal.config import ConfigError

DRY_RUN_PREFIX = ".rehearsal_"  # beginning of the name of a folder that a killed process may leave


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold the folder until the process ends, however it ends; what a killed one left half-written goes.

    Raises:
        ConfigError: another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise ConfigError(
                f"{run_dir} is in use by process {owner}; wait for it, or take another folder"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for folder in run_dir.glob(f"{DRY_RUN_PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for parts in (run_dir / "checkpoint").glob(".step_*"):
            parts.unlink(missing_ok=True)
        yield
