"""Bytes of tensors that are allocated while code runs, and their peak."""

import weakref
from typing import Any

import torch

from effchal.planning.dispatch import TorchDispatchMode, storage_address


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
        self._add(result)
        return result

    def start_peak(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def _add(self, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            self._add_storage(result.untyped_storage())
        elif isinstance(result, tuple | list):
            for part in result:
                self._add(part)

    def _add_storage(self, storage: torch.UntypedStorage) -> None:
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
