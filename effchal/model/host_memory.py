"""Return memory to the system: pages of a mapped weights file, holes in the heap."""

import ctypes
import mmap
import sys

from torch import Tensor

PAGEOUT = 21  # Linux's MADV_PAGEOUT: no data can be lost; without effect elsewhere


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
