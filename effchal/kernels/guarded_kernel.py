"""A Triton kernel that counts once it has given what its plain twin gives."""

import functools
import importlib
import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from effchal.model.faults import is_out_of_memory

FEW = 64  # rows of the trial: it must take no memory that a plan does not know
OFF = 2**-5  # of the largest number; a twin in bfloat16 rounds several times, by 2**-9 each
log = logging.getLogger(__name__)


class GuardedKernel:
    """Calls a kernel once a trial on the same kind of input went well, else its twin.

    Other cards and versions of Triton may fail to compile it. A warning says so, and this process
    goes on without the kernel.
    """

    def __init__(self, module: str, twin: Callable[..., Tensor], by_rows: bool = True) -> None:
        """
        Args:
            module: of this package, imported on a card alone; it has a kernel of the twin's name.
            twin: computes the same by torch's own operations.
            by_rows: a trial takes some rows of each tensor that has more than one dimension.
        """
        self._module, self.twin, self._by_rows = module, twin, by_rows
        self._good: set[Hashable] = set()
        self._failed = False

    @functools.cached_property
    def kernel(self) -> Callable[..., Tensor]:
        module = importlib.import_module(f"effchal.kernels.{self._module}")
        return getattr(module, self.twin.__name__)

    def __call__(self, x: Tensor, *others: Any) -> Tensor:
        if hasattr(x, "fake_mode") or self._failed:  # a tensor of the planner has no numbers
            return self.twin(x, *others)
        kind = x.shape[-1], *map(_kind_of, (x, *others))
        if kind in self._good or self._passes(kind, (x, *others)):
            try:
                return self.kernel(x, *others)
            except Exception as error:  # of a size whose code was not compiled before
                self._fail_by(error)
        return self.twin(x, *others)

    def _passes(self, kind: Hashable, arguments: tuple[Any, ...]) -> bool:
        if self._by_rows:
            arguments = tuple(map(_few_rows, arguments))
        expected = self.twin(*arguments)[:FEW].clone()
        # Zeros prove nothing: gradients are, of positions that no target follows.
        if not expected.isfinite().all() or not expected.any():
            return False
        try:
            off = distance(self.kernel(*arguments)[:FEW], expected)
        except Exception as error:
            self._fail_by(error)
            return False
        if off <= OFF:
            self._good.add(kind)
            return True
        self._fail(f"its result is {off:.2g} from its plain twin's, relative to the largest")
        return False

    def _fail_by(self, error: Exception) -> None:
        """Raises `error` again where memory lacks: the caller may try with less."""
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise error
        lines = str(error).strip().splitlines() or [""]
        self._fail(f"{type(error).__name__}: {lines[0]}")

    def _fail(self, trouble: str) -> None:
        self._failed = True
        log.warning(
            "going on without the Triton kernel %s, which is slower and may take more memory: %s",
            self.twin.__name__,
            trouble,
        )


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest number; NaN stays NaN."""
    off = (found.float() - expected.float()).abs().max()
    return float(off / expected.float().abs().max().clamp_min(1e-30))


def _kind_of(argument: Any) -> Hashable:
    """What a kernel is compiled for anew, sizes aside."""
    if isinstance(argument, Tensor):
        return argument.dtype
    return argument if isinstance(argument, str) else type(argument).__name__


def _few_rows(argument: Any) -> Any:
    return argument[:FEW] if torch.is_tensor(argument) and argument.ndim > 1 else argument
