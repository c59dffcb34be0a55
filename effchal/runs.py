"""A run folder: its lock, files written whole, JSON lines that survive a cut, provenance."""

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from effchal import __version__
from effchal.config import ConfigError

DRY_RUN_PREFIX = ".dry_run_"  # of a temporary folder; a killed process may leave it behind


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Let one process at a time work on a run folder, and remove what a killed one left unfinished.

    The kernel releases the lock when the process ends, however it ends.

    Raises:
        ConfigError: another process has the lock; the message names its number.
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
        for pattern in (f"{DRY_RUN_PREFIX}*", ".rehearsal_*"):  # the second is version 0.1's
            for folder in run_dir.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)
        for partial in (run_dir / "checkpoint").glob(".step_*"):
            partial.unlink(missing_ok=True)
        yield


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
    """Records of a file without lines that a kill cut short; [] if there is no file."""
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def provenance(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on: device, git commit, versions of libraries."""
    return {"device": device_name(device), "git_commit": git_commit(), "versions": versions()}


def device_name(device: torch.device) -> str:
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
    """Versions of the packages that numbers depend on; GPU kernels only where installed."""
    packages = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers")
    found = {"effchal": __version__} | {name: importlib.metadata.version(name) for name in packages}
    for name in ("flash_attn", "liger_kernel"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
