"""What a process may take of the machine, of a container and of a Slurm job."""

from pathlib import Path

import psutil
import pytest

from effchal.model.host_memory import free_host_memory

MIB = 1 << 20
OWN = Path("/proc/self/cgroup")
V2 = "0::/system.slice/job\n"
V1 = "5:cpu:/\n4:hugetlb,memory:/docker/job\n0::/\n"


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


def stat(active, inactive, prefix=""):
    sizes = {"cache": 7, "anon": 9} | {"active_file": active, "inactive_file": inactive}
    lines = {f"{prefix}{name}": size for name, size in sizes.items()}
    if prefix:  # version 1 has the group's own sizes too
        lines = dict.fromkeys(sizes, 5) | lines
    return "\n".join(f"{name} {size}" for name, size in lines.items())


@pytest.fixture(autouse=True)
def _much_memory(monkeypatch):
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Memory", (), {"available": 900 * MIB})
    )


def test_the_lowest_limit_above_the_process_counts(tmp_path):
    no_limit = {"max": "max", "current": 3, "stat": stat(0, 0)}
    group(tmp_path / "system.slice" / "job", **no_limit)
    assert free_host_memory(tmp_path, V2) == 900 * MIB
    slice_ = {"max": 500 * MIB, "current": 200 * MIB, "stat": stat(30 * MIB, 12 * MIB)}
    group(tmp_path / "system.slice", **slice_)
    assert free_host_memory(tmp_path, V2) == 342 * MIB  # pages of files are free
    group(tmp_path / "system.slice" / "job", max=80 * MIB, current=90 * MIB, stat=stat(0, 0))
    assert free_host_memory(tmp_path, V2) == 0


def test_a_group_of_version_1_counts_those_below_it(tmp_path):
    of_group = {"limit_in_bytes": 400 * MIB, "usage_in_bytes": 150 * MIB}
    group(tmp_path / "memory" / "docker", **of_group, stat=stat(20 * MIB, 1 * MIB, "total_"))
    top = {"limit_in_bytes": 2**63 - 4096, "usage_in_bytes": 600 * MIB}
    group(tmp_path / "memory", **top, stat=stat(0, 0, "total_"))
    assert free_host_memory(tmp_path, V1) == 271 * MIB


def test_without_groups_it_is_what_the_machine_has(tmp_path):
    for listed in ("", V1, V2):
        assert free_host_memory(tmp_path, listed) == 900 * MIB


@pytest.mark.parametrize("broken", ["no stat", "no use", "no number"])
def test_a_group_that_cannot_be_read_ends_nothing(tmp_path, broken):
    files = {"max": 9 * MIB, "current": 1 * MIB, "stat": stat(0, 0)}
    files |= {"no stat": {"stat": None}, "no use": {"current": None}}.get(broken, {"max": "much"})
    group(tmp_path / "system.slice", **{key: text for key, text in files.items() if text})
    assert free_host_memory(tmp_path, V2) == 900 * MIB
    assert free_host_memory(tmp_path, "no group\n") == 900 * MIB


@pytest.mark.skipif(not OWN.is_file(), reason="needs control groups, which Linux has")
def test_without_a_list_the_groups_are_those_of_this_process(tmp_path):
    lines = [line.split(":", 2) for line in OWN.read_text().splitlines()]
    for _, controllers, place in lines:
        own = tmp_path / ("memory" if controllers else "") / place.lstrip("/")
        group(own, max=80 * MIB, current=9 * MIB, stat=stat(0, 0))
    assert free_host_memory(tmp_path) == 71 * MIB
