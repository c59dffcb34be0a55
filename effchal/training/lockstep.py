"""A pass in which one of several processes lacks memory: it goes on without numbers.

Under FSDP2 the others wait for it at each layer, and cannot be told in between. So it comes to each
layer, computes nothing there, and tells them once the pass is over.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from effchal.kernels.decoder_layer import FusedLayer, LayerFunction
from effchal.model.faults import is_out_of_memory, release

T = TypeVar("T")


class Lockstep:
    """What the layers of one process know of the pass under way."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin another pass."""
        self.lacks_memory = False
        self.is_backward = False  # whether its backward part has come to a layer
        self.is_over = False  # it has come to all of them

    def attempt(self, compute: Callable[[], T]) -> T | None:
        """What `compute` returns; None from the moment on at which memory lacks."""
        if self.lacks_memory:
            return None
        try:
            return compute()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.lacks_memory = True
            release(error)
        return None

    def backward(self, hidden: Tensor, finish: Callable[[], Tensor]) -> Tensor | None:
        """What `finish` returns, after the backward pass; None if this pass lacked memory.

        Args:
            hidden: states that the layers gave.
            finish: computes the loss of them, and the backward pass.

        Raises:
            RuntimeError: memory lacked between two layers, so the others wait in vain.
        """
        found = self.attempt(finish)
        if found is None:
            if self.is_backward:
                raise torch.OutOfMemoryError("CUDA out of memory between two layers")
            hidden.backward(torch.zeros_like(hidden))
        self.is_over = True
        return None if self.lacks_memory else found


class LockstepFunction(torch.autograd.Function):
    """LayerFunction or, where memory lacks, a layer that changes nothing.

    The layer's adapter is an input in both cases, so that the backward pass comes here, too.
    """

    @staticmethod
    def forward(
        ctx,
        layer: "LockstepLayer",
        options: dict,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        *adapter: Tensor,
    ) -> Tensor:
        ctx.layer, ctx.adapter = layer, len(adapter)
        y = layer.lockstep.attempt(
            lambda: LayerFunction.forward(ctx, layer, options, x, cos, sin, *adapter)
        )
        ctx.is_skipped = y is None
        return x.view_as(x) if y is None else y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple:
        lockstep, gradients = ctx.layer.lockstep, None
        lockstep.is_backward = True
        if not ctx.is_skipped:
            gradients = lockstep.attempt(lambda: LayerFunction.backward(ctx, dy))
        ctx.done = None  # the activations, where it failed
        return gradients or (None, None, dy, None, None, *[None] * ctx.adapter)


class LockstepLayer(FusedLayer):
    def __init__(self, fused: FusedLayer, lockstep: Lockstep) -> None:
        vars(self).update(vars(fused))
        self.lockstep = lockstep

    def differentiable(self, *inputs: Any) -> Tensor:
        return LockstepFunction.apply(self, *inputs)
