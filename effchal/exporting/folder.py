"""The folder of an export: written beside its place, then renamed, so that none is left half."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from effchal.config import ConfigError
from effchal.runs import bundle_around, sync_folder, where_supported

SPARE = 1.02  # of the weights, for tokenizer, card and headers


def check_free(folder: Path, key: str = "export.folder") -> None:
    """Raises ConfigError if nothing can go there: it holds something, or lies in a bundle.

    Args:
        key: the key that names the folder, for the message.
    """
    if folder.is_file():
        raise ConfigError(f"{key}={folder} is a file; give another folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{key}={folder} holds something already; give another folder")
    bundle = bundle_around(folder)
    if bundle is not None:
        raise ConfigError(
            f"{key}={folder} lies in the bundle {bundle}, which must not change; "
            "give another folder"
        )


def check_space(folder: Path, weight_bytes: int) -> None:
    """Raises ConfigError if the disk of `folder` has less space than the weights need."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free, needed = shutil.disk_usage(there).free, round(weight_bytes * SPARE)
    if free < needed:
        raise ConfigError(
            f"the export needs {needed / 2**30:.2f} GiB, and {there} has {free / 2**30:.2f} GiB; "
            "make room, or give export.folder=<folder of another disk>"
        )


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` at the end and not if that fails.

    Raises:
        OSError: the disk is full, for example; nothing is left of it.
        ConfigError: somebody else has filled `folder` meanwhile.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        yield partial
        for path in (partial, *partial.rglob("*")):  # peft and a umask may allow the owner alone
            is_script = path.suffix == ".sh"
            with where_supported():
                path.chmod(0o755 if path.is_dir() or is_script else 0o644)
        sync_folder(partial)
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)  # over an empty folder, too
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        check_free(folder)
        raise
    sync_folder(folder.parent)


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
