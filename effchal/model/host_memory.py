"""Memory of the host: what is free, and what goes back to the system."""

import ctypes
import mmap
import sys
from pathlib import Path

import psutil
from torch import Tensor

PAGEOUT = 21  # Linux's MADV_PAGEOUT: no data can be lost; without effect elsewhere
# Files of a control group's folder: its limit and its use. Versions 2 and 1.
GROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def free_host_memory(groups: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> int:
    """Bytes that this process could take now.

    That is what the machine has, or less in a container or a Slurm job: these are control groups
    with a limit of their own.

    Args:
        groups: where control groups are mounted.
        own: the groups of this process, as Linux's /proc/self/cgroup lists them, which is read
            where it is not given.
    """
    lists = Path("/proc/self/cgroup")
    if own is None:
        own = lists.read_text() if lists.is_file() else ""
    free = psutil.virtual_memory().available
    for line in own.splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):  # version 2, version 1
            top = groups / controllers
            folder = top / place.lstrip("/")
            for level in (folder, *folder.parents):  # a group above may have the lower limit
                free = min(free, free_in_group(level, free))
                if level == top:
                    break
    return free


def free_in_group(folder: Path, free: int) -> int:
    """Bytes that a control group's limit leaves, or `free` where it has none.

    Pages of files count as free, as they do for the machine: the kernel takes them back. Source:
    admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.
    """
    for limit, used in GROUP_FILES:
        if (folder / limit).is_file():
            text = (folder / limit).read_text().strip()
            lines = (folder / "memory.stat").read_text().splitlines()
            stat = dict(line.split(" ", 1) for line in lines)
            prefix = "total_" if "total_cache" in stat else ""  # version 1: with groups below
            kept = sum(int(stat[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
            left = int(text) - int((folder / used).read_text()) + kept if text != "max" else free
            return max(0, left)
    return free


def release_pages(tensor: Tensor) -> None:
    """Tell the system that the whole pages under a CPU tensor are not needed."""
    is_real = type(tensor) is Tensor  # a fake one has no pages
    if sys.platform != "linux" or tensor.device.type != "cpu" or not is_real:
        return
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = tensor.data_ptr() + tensor.nbytes - first
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), PAGEOUT)


def trim_heap() -> None:
    """Return the free pages inside glibc's heaps, which it keeps; without effect elsewhere."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
