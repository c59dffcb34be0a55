"""Bytes of tensors that are allocated while code runs, and their peak."""

import weakref
from typing import Any

import torch

from effchal.planning.dispatch import TorchDispatchMode, storage_address
from effchal.planning.traffic import tensors_of


class AllocatedBytes(TorchDispatchMode):
    """Counts each storage from the operation that returns it until it is freed.

    Fake tensors count like real ones. Scratch memory inside an operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self.made = 0  # freed or not
        self._known: dict[int, weakref.ref] = {}  # by the address of the storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_of(result):
            self._add(tensor.untyped_storage())
        return result

    def start_peak(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def _add(self, storage: torch.UntypedStorage) -> None:
        address = storage_address(storage)
        if address in self._known:
            return
        size = storage.nbytes()
        self._known[address] = weakref.ref(storage, lambda _: self._drop(address, size))
        self.now += size
        self.made += size
        self.peak = max(self.peak, self.now)

    def _drop(self, address: int, size: int) -> None:
        del self._known[address]
        self.now -= size
