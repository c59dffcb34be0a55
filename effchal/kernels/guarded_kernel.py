"""A Triton kernel that counts once it has given what its plain twin gives."""

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
        self._good: set[tuple[torch.dtype, int]] = set()
        self._failed = False

    @functools.cached_property
    def kernel(self) -> Callable[..., Tensor]:
        module = importlib.import_module(f"effchal.kernels.{self._module}")
        return getattr(module, self.twin.__name__)

    def __call__(self, x: Tensor, *others: Any) -> Tensor:
        if hasattr(x, "fake_mode"):  # a tensor of the planner has no numbers
            return self.twin(x, *others)
        kind = x.dtype, x.shape[-1]
        if kind not in self._good and not self._passes(kind, (x, *others)):
            return self.twin(x, *others)
        return self.kernel(x, *others)

    def _passes(self, kind: tuple[torch.dtype, int], arguments: tuple[Any, ...]) -> bool:
        if self._failed:
            return False
        if self._by_rows:
            arguments = tuple(map(_few_rows, arguments))
        expected = self.twin(*arguments).clone()
        if not expected.isfinite().all():  # nothing to compare with
            return False
        try:
            off = distance(self.kernel(*arguments), expected)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            trouble = f"{type(error).__name__}: {lines[0]}"
        else:
            if off <= OFF:
                self._good.add(kind)
                return True
            trouble = f"its result is {off:.2g} from its plain twin's, relative to the largest"
        self._failed = True
        name = self.twin.__name__
        log.warning("going on without the Triton kernel %s, which is slower: %s", name, trouble)
        return False


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest number; NaN stays NaN."""
    off = (found.float() - expected.float()).abs().max()
    return float(off / expected.float().abs().max().clamp_min(1e-30))


def _few_rows(argument: Any) -> Any:
    return argument[:FEW] if torch.is_tensor(argument) and argument.ndim > 1 else argument
