"""Counts what torch operations would launch on a card: for count_launches.py and check_gpu.py."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor  # private, as the next ones
from torch.utils._python_dispatch import TorchDispatchMode  # checked with 2.11 to 2.14
from torch.utils._pytree import tree_leaves

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear", "dot", "addbmm"}
ALLOCATE = ("empty", "new_empty", "lift_fresh", "resize_")
READ_ROWS = {"embedding", "index_select", "index", "gather"}  # not all of what they index
READS = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "is_nonzero",
    "equal",
}  # the host waits for a value
WRITE_ONLY = {"fill_", "zero_", "copy_", "random_", "normal_", "uniform_"}


@dataclass
class Counts:
    """Launches by kind, and bytes that element-wise ones read and write."""

    element_wise: Counter[str] = field(default_factory=Counter)  # launches by operation
    element_wise_bytes: Counter[str] = field(default_factory=Counter)
    products: Counter[str] = field(default_factory=Counter)  # dense, and those of 4-bit weights
    attention: Counter[str] = field(default_factory=Counter)
    waits: int = 0  # values that the host reads, or blocking copies to and from the device

    @property
    def launches(self) -> int:
        return sum(sum(c.values()) for c in (self.element_wise, self.products, self.attention))


class Launches(TorchDispatchMode):
    """Counts operations below autograd, on real tensors or fake ones.

    A view or an allocation launches nothing. Everything that is neither a product nor
    attention counts as element-wise: sums, norms, copies and unpacking, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.written: set[int] = set()  # storages that an operation wrote into
        self._reading = False  # several values that are read one after the other are one wait

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        if name in READS:
            self.counts.waits += not self._reading
            self._reading = True
            if name in ("_local_scalar_dense", "item") and isinstance(args[0], FakeTensor):
                return (args[0].dtype in (torch.float32, torch.float64) and 0.5) or 1
        result = func(*args, **kwargs)
        if name not in READS and not _is_free(func, name, args, result):
            self._reading = False
            self._count(func, name, args, kwargs, result)
        return result

    def _count(self, func: Any, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        self.written |= {_storage(tensor) for tensor in _written(func, args, kwargs)}
        if _crosses(args, kwargs, result) and not kwargs.get("non_blocking"):
            self.counts.waits += 1
        if name.rstrip("_") in PRODUCTS or "gemm" in name or "matmul" in name:
            self.counts.products[name] += 1
        elif "attention" in name or "attn" in name:
            self.counts.attention[name] += 1
        else:
            self.add(name, _moved(name, func, args, kwargs, result))

    def add(self, name: str, moved: int) -> None:
        """One more element-wise launch, and the bytes that it reads and writes."""
        self.counts.element_wise[name] += 1
        self.counts.element_wise_bytes[name] += moved


@contextlib.contextmanager
def compiled_as_one() -> Iterator[list[Launches]]:
    """Within, torch.compile makes functions that count as one launch each.

    Inductor fuses element-wise operations and a sum of each row into one kernel. It cannot
    run on fake tensors, so this says what it would launch and move. Import the code that
    compiles within. The list holds the mode that counts, if any.
    """
    modes: list[Launches] = []

    def compile_(function: Callable | None = None, **_: Any) -> Callable:
        if function is None:
            return lambda each: compile_(each)
        return lambda *args, **kwargs: _run_as_one(modes, function, args, kwargs)

    original, torch.compile = torch.compile, compile_  # type: ignore[assignment]
    try:
        yield modes
    finally:
        torch.compile = original


@contextlib.contextmanager
def claiming_cuda(claim: bool, modes: list[Launches]) -> Iterator[None]:
    """Within, fake CPU tensors say that they are on a card, for code that asks `is_cuda`.

    For a machine without a card, where autograd cannot run on fake tensors of one. RMS norm,
    which has a kernel on a card forward and backward, counts as one each.

    Args:
        modes: of compiled_as_one.
    """
    if not claim:
        yield
        return
    rms_norm = F.rms_norm

    def one_kernel(x: Tensor, *shape_weight_eps: Any, **named: Any) -> Tensor:
        fake = modes and isinstance(x, FakeTensor)
        return OneNorm.apply(modes, x) if fake else rms_norm(x, *shape_weight_eps, **named)

    FakeTensor.is_cuda = property(lambda self: True)  # type: ignore[assignment,method-assign]
    F.rms_norm = one_kernel
    try:
        yield
    finally:
        F.rms_norm = rms_norm
        del FakeTensor.is_cuda


class OneNorm(torch.autograd.Function):
    """RMS norm of fake tensors: its launches and bytes, without its arithmetic."""

    @staticmethod
    def forward(ctx: Any, modes: list[Launches], x: Tensor) -> Tensor:
        ctx.modes, ctx.like = modes, x
        modes[-1].add("rms_norm", _size([x, x]))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor]:
        ctx.modes[-1].add("rms_norm_backward", _size([dy, ctx.like, ctx.like]))
        return None, torch.empty_like(ctx.like)


def _run_as_one(modes: list[Launches], function: Callable, args: tuple, kwargs: dict) -> Any:
    if not modes:
        return function(*args, **kwargs)
    mode = modes[-1]
    outer, mode.counts = mode.counts, Counts()
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    mode.written = set()
    try:
        result = function(*args, **kwargs)
    finally:
        inner, mode.counts = mode.counts, outer
    written = [tensor for tensor in tensors if _storage(tensor) in mode.written]
    results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    new = [each for each in results if not any(each is tensor for tensor in tensors)]
    mode.add(
        f"compiled {getattr(function, '__name__', 'function')}", _size([*tensors, *written, *new])
    )
    mode.counts.products += inner.products
    mode.counts.attention += inner.attention
    return result


def _is_free(func: Any, name: str, args: tuple, result: Any) -> bool:
    """Whether an operation launches nothing: a view, an allocation, a question."""
    results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if not results or name.startswith(ALLOCATE) or func.namespace == "prim":
        return not func._schema.is_mutable
    if name in ("_unsafe_view", "detach", "alias", "_reshape_alias"):
        return True
    if func._schema.is_mutable:
        return name in ("set_", "detach_", "requires_grad_")
    given = {_storage(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
    return all(_storage(each) in given for each in results)


def _written(func: Any, args: tuple, kwargs: dict) -> list[Tensor]:
    """Arguments that an operation changes in place."""
    names = [argument.name for argument in func._schema.arguments if argument.is_write]
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
    found = (given | kwargs).items()
    return [value for name, value in found if name in names and isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _crosses(args: tuple, kwargs: dict, result: Any) -> bool:
    """Whether data goes between host and device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
    kinds = {
        tensor.device.type for tensor in tensors if tensor.dim() or tensor.device.type != "cpu"
    }
    return len(kinds) > 1


def _moved(name: str, func: Any, args: tuple, kwargs: dict, result: Any) -> int:
    """Bytes that are read and written."""
    results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    written = results or [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)][:1]
    if name in READ_ROWS:
        return 2 * _size(written)
    outs = {argument.name for argument in func._schema.arguments if argument.is_out}
    read = tree_leaves((args, {key: value for key, value in kwargs.items() if key not in outs}))
    tensors = [leaf for leaf in read if isinstance(leaf, Tensor)]
    if name in WRITE_ONLY:
        tensors = tensors[1:]
    return _size(tensors) + _size(written)


def _size(tensors: list[Tensor]) -> int:
    """Bytes of the elements; one that is expanded counts once."""
    total = 0
    for tensor in tensors:
        elements = 1
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            elements *= size if stride else 1
        total += elements * tensor.element_size()
    return total
