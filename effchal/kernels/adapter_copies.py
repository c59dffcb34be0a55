"""LoRA adapters of layers that share an input, in the dtype of their products.

Adapters are kept in float32, and the products of a layer are in bfloat16. Casting each A and B
at each use takes a launch each. A host may need longer to start them than a card to run them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Adapter:
    """One layer's LoRA, scale * B(A(x)), and the columns of the fused output that it adds to."""

    a: nn.Parameter  # (r, D_in)
    b: nn.Parameter  # (out, r)
    scale: float
    columns: slice  # of the fused output
    ranks: slice  # of the fused rank

    def in_dtype(self, dtype: torch.dtype) -> "Adapter":
        if self.a.dtype == self.b.dtype == dtype:
            return self
        a, b = (nn.Parameter(part.detach().to(dtype), False) for part in (self.a, self.b))
        return replace(self, a=a, b=b)


class AdapterCopies:
    """A and B of each adapter as `take` found them, and memory for their gradients."""

    a: Tensor  # (ranks, D_in): all A's, one below the other
    bs: list[Tensor]  # (out, r) of each adapter; the parameters where the dtype is theirs

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._as = [adapter.a for adapter in adapters]
        self._bs = [adapter.b for adapter in adapters]
        self._ranks = [len(a) for a in self._as]
        self._dtype: torch.dtype | None = None  # of the copies
        self._targets: list[Tensor] = []
        self._sources: list[Tensor] = []

    @torch.no_grad()
    def take(self, dtype: torch.dtype) -> None:
        """Copy the adapters as they are now."""
        if dtype is not self._dtype or self.a.device != self._as[0].device:
            self._allocate(dtype)
        if self._targets:  # one launch; private to torch, checked with 2.11 and 2.13
            torch._foreach_copy_(self._targets, self._sources)

    @torch.inference_mode(False)  # made inside, copies could not be written outside
    def _allocate(self, dtype: torch.dtype) -> None:
        first = self._as[0]
        self.a, self.bs, self._dtype = first, list(self._bs), dtype
        self._targets, self._sources = [], []
        if len(self._as) > 1 or first.dtype != dtype:
            self.a = first.new_empty(sum(self._ranks), first.shape[1], dtype=dtype)
            self._targets += self.a.split(self._ranks)
            self._sources += self._as
        if first.dtype != dtype:
            self.bs = [b.new_empty(b.shape, dtype=dtype) for b in self._bs]
            self._targets += self.bs
            self._sources += self._bs

    def blank_gradients(self, like: Tensor) -> Tensor:
        """(n,) memory for all gradients, of the dtype and device of `like`."""
        return like.new_empty(self.a.numel() + sum(b.numel() for b in self.bs))

    def parts(self, gradients: Tensor) -> list[Tensor]:
        """Views of (n,) gradients: one of `a`, then one of each of `bs`."""
        shapes = [self.a.shape, *(b.shape for b in self.bs)]
        parts = gradients.split([shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def of_parameters(self, gradients: Tensor) -> list[Tensor]:
        """(n,) gradients by parameter and in its dtype: A and B of each adapter."""
        a, *bs = self.parts(gradients.to(self._as[0].dtype))
        pairs = zip(a.split(self._ranks), bs, strict=True)
        return [gradient for pair in pairs for gradient in pair]
