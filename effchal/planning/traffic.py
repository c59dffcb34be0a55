"""Bytes that a step's element-wise operations read and write, and the operations it launches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from effchal.planning.dispatch import TorchDispatchMode, schema_of, storage_address

# Their time follows from their operations, which planning/flops.py counts.
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "linear", "mv", "addmv", "dot")
PARTS_OF_PRODUCTS, PARTS_OF_ATTENTION = ("matmul", "gemm"), ("attention", "attn")
WRITES = ("copy", "fill", "zero", "random", "normal", "uniform", "bernoulli", "exponential")
GATHERS = ("embedding", "index_select", "index", "gather")  # read only what they return
FACTORIES = ("zeros", "new_zeros", "zeros_like", "ones", "ones_like", "full", "new_full", "arange")
NO_WORK = (
    *("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "lift_fresh"),
    *("resize", "set", "detach", "requires_grad"),
)


@dataclass(frozen=True)
class Launch:
    """An operation that a card would run."""

    name: str
    kind: str  # "product", "attention" or "element-wise"
    bytes: int  # read and written; 0 but for element-wise ones


class Traffic(TorchDispatchMode):
    """Counts what each operation moves between the card and its memory, caches left out.

    Fake tensors count like real ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.launches = 0  # products included

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        launch = launch_of(func, args, kwargs or {}, result)
        if launch is not None:
            self.add(launch)
        return result

    def add(self, launch: Launch) -> None:
        self.launches += 1
        self.bytes += launch.bytes


def launch_of(func: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> Launch | None:
    """What an operation launches; None for a view, an allocation, or a question."""
    schema = schema_of(func)
    outs = {argument.name for argument in schema.arguments if argument.is_out}
    given = [value for name, value in kwargs.items() if name not in outs]
    read, written = tensors_of([args, given]), tensors_of(result) or tensors_of(list(args[:1]))
    full_name = schema.name.partition("::")[2]
    name = full_name.removesuffix("_")
    known = {storage_of(tensor) for tensor in read}
    is_new = any(storage_of(tensor) not in known for tensor in tensors_of(result))
    if name in NO_WORK or not (is_new or schema.is_mutable):
        return None
    if name in PRODUCTS or any(part in name for part in PARTS_OF_PRODUCTS):
        return Launch(full_name, "product", 0)
    if any(part in name for part in PARTS_OF_ATTENTION):
        return Launch(full_name, "attention", 0)
    if name in FACTORIES:
        read = []
    elif name in GATHERS:
        read = written
    elif name in WRITES:
        replaced = {storage_of(tensor) for tensor in written}
        read = [tensor for tensor in read if storage_of(tensor) not in replaced]
    return Launch(full_name, "element-wise", moved(read) + moved(written))


def moved(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes behind tensors; a broadcast one is read once."""
    return sum(min(each.nbytes, each.untyped_storage().nbytes()) for each in tensors)


def storage_of(tensor: torch.Tensor) -> int:
    return storage_address(tensor.untyped_storage())


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors_of(part)]
    return []
