"""A stand-in for CUDA graphs: it records a step's operations, and does them again by address.

As a graph does, it keeps no memory alive but what the step allocated while it was recorded. What
else it reads or writes must still be there. What a capture forbids raises.
"""

import ctypes
import math

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from effchal.kernels import step_graphs

FORBIDDEN = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "_pin_memory")
FORBIDDEN += ("unique", "masked_select", "lift_fresh", "set_")


class Freed(RuntimeError):
    """A replay touches memory that is not the recording's, and is not there any more."""


class Forbidden(RuntimeError):
    """A capture would not allow this."""


class Outside:
    """Memory that was there before the recording, by its address, as a graph's kernels know it."""

    def __init__(self, tensor):
        storage = tensor.untyped_storage()
        self._alive, self._bytes = StorageWeakRef(storage), storage.nbytes()
        memory = (ctypes.c_char * self._bytes).from_address(storage.data_ptr())
        count = self._bytes // tensor.dtype.itemsize
        flat = torch.frombuffer(memory, dtype=tensor.dtype, count=count)
        self._tensor = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def tensor(self):
        if self._alive.expired():
            raise Freed(f"{self._bytes} bytes, of a tensor {tuple(self._tensor.shape)}")
        return self._tensor


def now(each):
    return each.tensor() if isinstance(each, Outside) else each


class Watch(TorchDispatchMode):
    """Writes down operations, and raises at what a capture forbids."""

    def __init__(self):
        super().__init__()
        self.operations = []  # (function, shape of its arguments, their leaves, those of outputs)
        self._own = {}  # storages made inside, by address

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in FORBIDDEN or name.startswith("unique"):
            raise Forbidden(name)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if name.startswith("index") and any(each.dtype is torch.bool for each in tensors[1:]):
            raise Forbidden(f"{name} by bools")
        outputs = func(*args, **kwargs)
        known = {each.untyped_storage().data_ptr() for each in tensors}
        for each in tree_leaves(outputs):
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr() not in known:
                self._own[each.untyped_storage().data_ptr()] = each
        given, shape = tree_flatten((args, kwargs))
        kept = [[self._kept(each) for each in leaves] for leaves in (given, tree_leaves(outputs))]
        self.operations.append((func, shape, *kept))
        return outputs

    def _kept(self, each):
        if not isinstance(each, Tensor) or not each.untyped_storage().nbytes():
            return each
        return each if each.untyped_storage().data_ptr() in self._own else Outside(each)


class FromTheHost(TorchFunctionMode):
    """Raises where tensors are made from numbers, pinned or brought to another device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        moved = name == "to" and args[0].device.type == "cpu" and torch.device("cpu") not in args
        if name in ("tensor", "as_tensor", "pin_memory", "item", "tolist", "cpu") or moved:
            raise Forbidden(f"{name}, from the host")
        return func(*args, **kwargs)


class HostRecording:
    """Takes CudaRecording's place on a CPU."""

    made = replayed = 0

    def __init__(self, work, beside):
        assert beside is None or isinstance(beside, HostRecording)
        work()
        with Watch() as watch:
            self.result = work()
        self._operations = watch.operations
        self.result.fill_(math.nan)  # a capture computes nothing
        HostRecording.made += 1

    def replay(self):
        HostRecording.replayed += 1
        for func, shape, *kept in self._operations:
            given, before = ([now(each) for each in leaves] for leaves in kept)
            args, kwargs = tree_unflatten(given, shape)
            outputs = func(*args, **kwargs)
            for old, new in zip(before, tree_leaves(outputs), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr() and old.numel():
                    old.copy_(new)


def small_graphs(monkeypatch):
    """Graphs soon, and of few columns; what one test spoils is no other's."""
    for name, value in {"SEEN": 2, "COLUMNS": 16}.items():
        monkeypatch.setattr(step_graphs, name, value)
    monkeypatch.setattr(step_graphs.StepGraphs, "failed", False)
    for name in ("made", "replayed"):
        monkeypatch.setattr(HostRecording, name, 0)
