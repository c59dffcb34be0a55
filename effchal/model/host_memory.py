"""Memory of the host: what is free, and what goes back to the system."""

import contextlib
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
    with a limit of their own. A group that cannot be read counts as one without a limit.

    Args:
        groups: where control groups are mounted.
        own: the groups of this process, as /proc/self/cgroup lists them. None reads that file.
    """
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/self/cgroup").read_text() if own is None else own
        for line in lines.splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top = groups / "memory" if controllers else groups  # version 1, version 2
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
        text = (folder / limit).read_text().strip() if (folder / limit).is_file() else "max"
        if text != "max":
            sizes = {"active_file": 0, "inactive_file": 0}
            for line in (folder / "memory.stat").read_text().splitlines():
                name, size = line.split()
                name = name.removeprefix("total_")  # version 1: with the groups below, and later
                if name in sizes:
                    sizes[name] = int(size)
            return max(0, int(text) - int((folder / used).read_text()) + sum(sizes.values()))
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
