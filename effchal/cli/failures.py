"""How a command ends badly: one line on standard error for a user's error, a traceback for ours."""

import contextlib
import errno
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import HydraException

from effchal.config import Config, ConfigError
from effchal.config.nearest import explain
from effchal.tracking.manifest import Failure, State
from effchal.tracking.sweep import SweepJob

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
PATH_ERRORS = {errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error of the user's into one line on stderr and exit code 2, or 1 for a full disk."""
    try:
        yield
    except (HydraException, ConfigError, OSError, AssertionError) as error:
        message = one_line(error)
        if message is None:
            raise
        fail(message)
        sys.exit(1 if getattr(error, "errno", None) in DISK_ERRORS else 2)


def one_line(error: BaseException) -> str | None:
    """What to tell a user of an error; None for one that is ours."""
    # OmegaConf asserts that a key is not below a group that is none: lora=none lora.r=8.
    if isinstance(error, HydraException) or str(error).endswith("root: NoneType"):
        return explain(error, Config)
    if isinstance(error, ConfigError):
        return str(error)
    if not isinstance(error, OSError):
        return None
    remedy = "another output folder: hydra.run.dir=<folder>"
    if isinstance(error, PermissionError):
        return f"may not write or read {error.filename}; {remedy}"
    if error.errno in DISK_ERRORS | PATH_ERRORS:
        where = f" {error.filename}" if error.filename else ""
        room = "make room and go on with resume_from=<run>, or take "
        room = room if error.errno in DISK_ERRORS else ""
        return f"cannot write{where}: {error.strerror}; {room}{remedy}"
    return None


@contextlib.contextmanager
def failure_kept(job: SweepJob) -> Iterator[None]:
    """Let a sweep go on after a job that failed, and keep what to say of it at the end."""
    try:
        yield
    except (SystemExit, Exception) as error:
        failure = failure_of(error)
        if failure is None:
            return
        if failure.state is State.interrupted:  # a signal ends the whole sweep
            raise
        if not isinstance(error, SystemExit) and one_line(error) is None:
            traceback.print_exc()
        fail(failure.reason)
        job.error = failure.reason
        forget_lost_logs()


def forget_lost_logs() -> None:
    """Write no more into the log of a job whose folder its refusal removed."""
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, logging.FileHandler)]:
        if not Path(handler.baseFilename).parent.is_dir():
            root.removeHandler(handler)


def failure_of(error: BaseException) -> Failure | None:
    """Why a job ended; None for an exit that says that all is well."""
    if isinstance(error, SystemExit):
        code = error.code
        if isinstance(code, int) and code < 0:  # submitit's
            return Failure(State.interrupted, "put back into the queue")
        if isinstance(code, int) and code > 128:
            again = "the same command goes on with it"
            return Failure(State.interrupted, f"ended by signal {code - 128}; {again}")
        if isinstance(code, str):
            return Failure(State.failed, code.removeprefix("error: "))
        return Failure(State.failed, f"exit code {code}") if code else None
    message = one_line(error)
    if message is None:
        state = State.failed if isinstance(error, Exception) else State.interrupted
        return Failure(state, f"{type(error).__name__}: {error}")
    is_wrong = isinstance(error, (ConfigError, HydraException, AssertionError))
    return Failure(State.refused if is_wrong else State.failed, message)


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
