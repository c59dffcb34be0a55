import errno
import fcntl
import importlib.metadata
import os
import subprocess
import sys

import pytest
from support.paths import ROOT

from effchal.config import ConfigError
from effchal.runs import (
    append_json_line,
    cache_folder,
    provenance,
    read_json_lines,
    run_lock,
    sync_folder,
    versions,
    write_atomic,
)


def test_a_line_that_a_kill_cut_costs_no_other_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert read_json_lines(path) == []
    append_json_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    append_json_line(path, {"a": 3, "text": "\u2028"})
    assert read_json_lines(path) == [{"a": 1}, {"a": 3, "text": "\u2028"}]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "half \ud800")
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"
    write_atomic(path, "new")
    assert path.read_text() == "new"


def test_provenance_names_device_commit_and_versions():
    import torch

    found = provenance(torch.device("cpu"))
    assert found["device"].endswith("threads")
    assert {"effchal", "torch", "transformers"} <= found["versions"].keys()
    assert "git_commit" in found


def test_a_machine_without_4_bit_kernels_has_versions(monkeypatch):
    found = importlib.metadata.version

    def version(name):
        if name == "bitsandbytes":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    assert "bitsandbytes" in versions()
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "bitsandbytes" not in versions()
    assert "torch" in versions()


def test_damaged_lines_are_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"5\n[1]\nnull\n\xff\xfe\n\x00\x00\n" + b"[" * 99_999 + b'\n{"a": 1}\n')
    assert read_json_lines(path) == [{"a": 1}]


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def lockless(request, monkeypatch):
    """A file system that answers as some of networks and FUSE do."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_file_stands_for_a_lock_where_there_are_none(lockless, tmp_path, caplog):
    with run_lock(tmp_path):
        assert "has no locks" in caplog.text
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} of "):
            run_lock(tmp_path).__enter__()
    with run_lock(tmp_path):
        pass


@pytest.mark.integration
def test_a_file_that_a_dead_process_left_is_no_lock(lockless, tmp_path):
    code = (
        "import filelock, os, sys\n"
        "lock = filelock.SoftFileLock(sys.argv[1]).acquire()\n"
        "os.kill(os.getpid(), 9)"
    )
    file = tmp_path / ".lock.process"
    subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT)
    assert file.exists()
    with run_lock(tmp_path):
        pass


def answer_to_fsync(monkeypatch, number):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_sync_that_the_file_system_lacks_is_left_out(tmp_path, monkeypatch, number):
    answer_to_fsync(monkeypatch, number)
    sync_folder(tmp_path)


def test_a_sync_that_fails_is_an_error(tmp_path, monkeypatch):
    answer_to_fsync(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    import pwd

    def nobody(_):
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert cache_folder().is_absolute()
