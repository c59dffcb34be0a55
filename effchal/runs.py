"""A run folder: its name, its lock, files written whole, JSON lines that survive a cut."""

import contextlib
import errno
import fcntl
import importlib.metadata
import itertools
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from effchal import __version__
from effchal.config import ConfigError

if TYPE_CHECKING:  # a command that is refused does not wait for it
    import torch

CODE = Path(__file__).resolve().parents[1]  # the folder that the package lies in
DRY_RUN_PREFIX = ".dry_run_"  # of a temporary folder; a killed process may leave it behind
# What fsync and chmod answer where a file system has no such thing (FUSE, FAT, some of NFS).
NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EPERM}
log = logging.getLogger(__name__)


def new_folder(path: Path) -> Path:
    """Make the folder, or the first of <path>_2, <path>_3 … that is free.

    No two processes get the same one, also on a network's file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}_{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbers do not end")


def is_bundle(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("manifest.json", "config.yaml"))


def bundle_around(path: Path) -> Path | None:
    """The bundle that a path lies in; None for a path outside of bundles."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if is_bundle(folder)), None)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoint files, newest first."""
    found = [path for path in folder.glob("step_*.pt") if re.fullmatch(r"step_\d+\.pt", path.name)]
    return sorted(found, reverse=True)


class NotStarted(SystemExit):
    """The command has refused its work, and another process has said why."""


@contextlib.contextmanager
def nothing_left_if_refused(folder: Path, keep: bool = False) -> Iterator[None]:
    """Empty a folder that had nothing in it, and remove it, if the command refuses its work.

    Args:
        keep: the folder itself is the user's and stays.
    """
    was_empty = not folder.is_dir() or not any(folder.iterdir())
    try:
        yield
    except (ConfigError, NotStarted):
        if was_empty and folder.is_dir():
            with contextlib.suppress(ConfigError, OSError), run_lock(folder):  # or it is in use
                for path in folder.iterdir() if keep else [folder]:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Let one process at a time work on a run folder, and remove what a killed one left unfinished.

    The kernel releases the lock when the process ends, however it ends. On a file system
    without such locks, a file that names the process stands for one.

    Raises:
        ConfigError: another process has the lock; the message names its number.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file, contextlib.ExitStack() as stack:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise ConfigError(
                f"{run_dir} is in use by process {owner}; wait for it, or take another folder"
            ) from error
        except OSError as error:
            stack.enter_context(_lock_by_a_file(run_dir, error))
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for pattern in (f"{DRY_RUN_PREFIX}*", ".rehearsal_*"):  # the second is version 0.1's
            for folder in run_dir.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)
        for partial in (run_dir / "checkpoint").glob(".step_*"):
            partial.unlink(missing_ok=True)
        yield


def _lock_by_a_file(run_dir: Path, reason: OSError) -> filelock.BaseFileLock:
    """A lock by a file's existence. One that a dead process of this machine left is taken over."""
    path = run_dir / ".lock.process"
    log.warning("%s has no locks (%s); %s stands for one", run_dir, reason.strerror, path.name)
    lock = filelock.SoftFileLock(path, timeout=0)
    try:
        return lock.acquire().lock
    except filelock.Timeout as error:
        process, host = [*path.read_text(errors="replace").split(), "?", "?"][:2]
        raise ConfigError(
            f"{run_dir} is in use by process {process} of {host}; wait for it, or remove {path} "
            "if that process has ended"
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Replace a file. A reader finds the old content or the new one, never a part of it.

    Raises:
        OSError: the disk is full, for example; the old content is still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append a record on a line of its own, even after a line that a kill cut short.

    Raises:
        OSError: the disk is full, for example; the file is as before.
    """
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        was_cut = file.read(1) not in (b"", b"\n")
        line = b"\n" * was_cut + json.dumps(record).encode() + b"\n"
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a file without lines that are cut or damaged; [] if there is no file."""
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object that a run keeps of itself.

    Raises:
        ConfigError: damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
    except (ValueError, RecursionError):
        pass
    raise ConfigError(f"{path} is damaged; take another folder")


def flat(record: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested dicts by dotted key; an empty dict inside is a value."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        is_group = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return found


def sync(handle: int) -> None:
    """Have what was written survive a power cut, as far as the file system can promise it."""
    with where_supported():
        os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        sync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def where_supported() -> Iterator[None]:
    """Leave out what the file system has no notion of; any other error comes out."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def cache_folder() -> Path:
    """Where this user's caches lie: in the temporary folder for one without a home."""
    home = Path(os.path.expanduser("~"))
    place = home / ".cache" if home.is_absolute() else Path(tempfile.gettempdir(), f"{os.getuid()}")
    return Path(os.environ.get("XDG_CACHE_HOME") or place) / "effchal"


def python_path(folder: Path = CODE) -> str:
    """PYTHONPATH for a process that runs the code of a folder, which need not be installed."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def provenance(device: "torch.device") -> dict[str, Any]:
    """What the last bits of a result depend on: device, git commit, versions of libraries."""
    return {"device": device_name(device), "git_commit": git_commit(), "versions": versions()}


def device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def git_commit() -> str | None:
    """Commit of the checkout or of the image's build; None for an installed wheel."""
    if os.environ.get("EFFCHAL_GIT_COMMIT"):
        return os.environ["EFFCHAL_GIT_COMMIT"]
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on; kernels only where installed."""
    packages = ("torch", "transformers", "peft", "tokenizers")
    found = {"effchal": __version__} | {name: importlib.metadata.version(name) for name in packages}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["bitsandbytes"] = importlib.metadata.version("bitsandbytes")
    return found
