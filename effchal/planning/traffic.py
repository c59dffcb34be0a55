"""Bytes that a step's element-wise operations read and write, and the operations it launches."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # private; checked with torch 2.13

# Their time follows from their operations, which planning/flops.py counts.
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "mv", "addmv", "dot")
ATTENTION = ("_scaled_dot_product", "scaled_dot_product")
WRITES = ("copy", "fill", "zero")  # in place, without reading what was there
GATHERS = ("embedding", "index_select", "index", "gather")  # read only what they return
FACTORIES = ("zeros", "new_zeros", "zeros_like", "ones", "ones_like", "full", "new_full", "arange")
NO_WORK = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


class Traffic(TorchDispatchMode):
    """Counts what each operation moves between the card and its memory, caches left out.

    Fake tensors count like real ones. An operation that only returns a view moves nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.launches = 0  # products included

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._add(func, tensors_of([args, list((kwargs or {}).values())]), tensors_of(result))
        return result

    def _add(self, func: Any, read: list[torch.Tensor], written: list[torch.Tensor]) -> None:
        name = func._schema.name.partition("::")[2].removesuffix("_")
        known = {storage_of(tensor) for tensor in read}
        is_new = any(storage_of(tensor) not in known for tensor in written)
        if name in NO_WORK or not (is_new or func._schema.is_mutable):
            return
        self.launches += 1
        if name in PRODUCTS or name.startswith(ATTENTION):
            return
        if name in FACTORIES:
            read = []
        elif name in GATHERS:
            read = written
        elif name in WRITES:
            replaced = {storage_of(tensor) for tensor in written}
            read = [tensor for tensor in read if storage_of(tensor) not in replaced]
        self.bytes += sum(map(moved, read)) + sum(map(moved, written))


def moved(tensor: torch.Tensor) -> int:
    """Bytes behind a tensor; a broadcast one is read once."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors_of(part)]
    return []
