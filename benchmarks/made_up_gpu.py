"""A GPU that is not there: tensors with shapes and no values, and a count of what waits for it.

What comes from the device to the host, or goes there from memory that is not pinned, is a wait. So
is all that asks the device for a number or a shape (`item`, `nonzero`, an index by bools).
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda:0")


class Waits(TorchDispatchMode):
    """Counts waits for fake tensors on CUDA. Tensors on the CPU are real, and so are results there.

    Every number that comes from the device is 1.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake = fake
        self._pinned: set[int] = set()  # data_ptr of copies that are kept in `_copies`
        self._copies: list[Tensor] = []
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result: Any = NotImplemented
        if func.namespace == "aten":  # inference mode leaves `to`, `item` and others whole
            with self:
                result = func.decompose(*args, **kwargs)
        return self._run(func, args, kwargs) if result is NotImplemented else result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.overloadpacket.__name__
        on_device = [each for each in tree_leaves((args, kwargs)) if isinstance(each, FakeTensor)]
        target = kwargs.get("device")
        if name == "is_pinned":
            return args[0].data_ptr() in self._pinned
        if name == "_pin_memory":
            return self._pin(args[0])
        if name == "_local_scalar_dense" and on_device:
            self._count(name)
            return 1
        if name in ("_to_copy", "copy_") and on_device and is_on_host(target, args, name):
            self._count("to the host")
            return self._ones(func, name, args, kwargs)
        if name == "_to_copy" and not on_device and is_cuda(target):
            if args[0].data_ptr() not in self._pinned or not kwargs.get("non_blocking"):
                self._count("from memory that is not pinned")
            with self._fake:
                dtype = kwargs.get("dtype") or args[0].dtype
                return torch.empty(args[0].shape, dtype=dtype, device=DEVICE)
        if not on_device and not is_cuda(target):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if name == "copy_" and len(on_device) == 2:
            on_device[1].expand(on_device[0].shape)  # no values, so nothing more to do
            return on_device[0]
        if name == "exponential_":
            return on_device[0]  # fake tensors take no generator
        if name == "nonzero" or (name.startswith("index") and has_bools(args)):
            self._count(name)
        if any(each.dim() for each in host_tensors(args, kwargs)):
            self._count(f"{name} of a tensor on the host")
        with self._fake:
            return func(*args, **kwargs)

    def _pin(self, tensor: Tensor) -> Tensor:
        with _disable_current_modes():
            self._copies.append(tensor.clone())
        self._pinned.add(self._copies[-1].data_ptr())
        return self._copies[-1]

    def _ones(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        with _disable_current_modes():
            if name == "copy_":
                return args[0].fill_(1)
            dtype = kwargs.get("dtype") or args[0].dtype
            return torch.ones(tuple(args[0].shape), dtype=dtype)

    def _count(self, what: str) -> None:
        own = [each for each in traceback.extract_stack() if "/effchal/" in each.filename]
        place = own[-1] if own else traceback.extract_stack()[0]
        self.places[f"{what} ({Path(place.filename).name}: {place.name})"] += 1


def is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def is_on_host(device: Any, args: Any, name: str) -> bool:
    if name == "copy_":
        return args[0].device.type == "cpu"
    return device is not None and torch.device(device).type == "cpu"


def has_bools(args: Any) -> bool:
    indices = [each for each in tree_leaves(args[1:2]) if isinstance(each, Tensor)]
    return any(each.dtype == torch.bool for each in indices)


def host_tensors(args: Any, kwargs: Any) -> Iterator[Tensor]:
    for each in tree_leaves((args, kwargs)):
        if isinstance(each, Tensor) and not isinstance(each, FakeTensor):
            yield each


AS_NUMBER: dict[Any, type] = {
    Tensor.__int__: int,
    Tensor.__index__: int,
    Tensor.__float__: float,
    Tensor.__bool__: bool,
}


class ByOperators(TorchFunctionMode):
    """What a torch without CUDA refuses to fake tensors (`x[key]`, `~x`, `int(x)`), done else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], FakeTensor):
            if func is Tensor.__getitem__:
                x, places = indexed(*args)
                return torch.ops.aten.index.Tensor(x, places) if places else x
            if func is Tensor.__setitem__:
                return set_item(*args)
            if func is Tensor.copy_:
                return torch.ops.aten.copy_(*args, **(kwargs or {}))
            if func is Tensor.__invert__:
                return torch.bitwise_not(args[0])
            if func in AS_NUMBER:
                return AS_NUMBER[func](torch.ops.aten._local_scalar_dense(args[0]))
        return func(*args, **(kwargs or {}))


def indexed(x: Tensor, key: Any) -> tuple[Tensor, list[Tensor | None]]:
    """A view by the numbers, slices and Nones of a key, and what is left to index it with."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in [each for each in keys if not isinstance(each, Tensor)]:
        at = next(i for i, each in enumerate(keys) if each is Ellipsis)
        named = sum(each is not None for each in keys) - 1
        keys[at : at + 1] = [slice(None)] * (x.dim() - named)
    places: list[Tensor | None] = []
    dim = 0
    for each in keys:
        if isinstance(each, int) and not isinstance(each, bool):
            x = x.select(dim, each)
            continue
        if each is None:
            x = x.unsqueeze(dim)
        elif isinstance(each, slice):
            x = torch.ops.aten.slice.Tensor(x, dim, each.start, each.stop, each.step or 1)
        else:  # a list would be copied to the device by torch as well
            index = each if isinstance(each, Tensor) else torch.tensor(each).to(DEVICE)
            places += [None] * (dim - len(places)) + [index]
        dim += 1
    return x, places


def set_item(x: Tensor, key: Any, value: Any) -> None:
    view, places = indexed(x, key)
    if not isinstance(value, Tensor):
        value = torch.full((), value, dtype=x.dtype, device=x.device)
    if places:
        torch.ops.aten.index_put_(view, places, value)
    else:
        torch.ops.aten.copy_(view, value)


class HostGenerator(torch.Generator):
    """Stands in for the device's own, which this torch may not have."""

    def __new__(cls, device: Any = None) -> "HostGenerator":
        return super().__new__(cls, "cpu")


@contextlib.contextmanager
def made_up_gpu() -> Iterator[Waits]:
    """What is made on DEVICE inside is fake, and its waits are counted."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        Waits(fake) as waits,
        ByOperators(),
        mock.patch.object(torch, "Generator", HostGenerator),
    ):
        yield waits
