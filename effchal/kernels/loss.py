"""Cross-entropy of the target positions, chunk by chunk: the logits of all never exist together."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.kernels.dropout import draw_seed
from effchal.kernels.lora_linear import FusedLinear, is_plain

# Logits of a chunk; on a CPU they stay in its cache.
CHUNK_ELEMENTS = {"cpu": 2**22 + 2**21, "cuda": 2**27}


def chunked_loss(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Sum of nats, a float32 scalar.

    Gradients are computed in the forward pass, where a chunk's logits exist, and scaled in the
    backward pass.

    Args:
        head: module of hidden states -> logits; frozen, or frozen under an adapter.
        hidden: (n, D) of the target positions.
        targets: (n,) int64.
    """
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    return ChunkedLoss.apply(head, torch.is_grad_enabled(), hidden, targets, *parameters)


def is_frozen_product(head: Any) -> bool:
    return type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad


class ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, head: Any, with_gradients: bool, hidden: Tensor, targets: Tensor, *parameters: Tensor
    ):
        with_gradients = with_gradients and any(ctx.needs_input_grad)
        plain = is_frozen_product(head)
        adapted = FusedLinear([head]) if not plain and is_plain(head) else None
        loss = torch.zeros((), device=hidden.device)
        ctx.gradients = None
        if with_gradients:
            ctx.gradients = [torch.zeros_like(tensor) for tensor in (hidden, *parameters)]
        d_hidden = ctx.gradients[0] if with_gradients else hidden
        kind = "cuda" if hidden.is_cuda else "cpu"  # the planner's tensors of a card claim is_cuda
        rows = max(1, CHUNK_ELEMENTS[kind] // head.weight.shape[0])
        # Where states are float32 over bf16 weights, one upcast copy of the head serves all chunks.
        dtype = torch.promote_types(head.weight.dtype, hidden.dtype)
        weight = head.weight.to(dtype) if plain else None
        chunks = hidden.split(rows), targets.split(rows), d_hidden.split(rows)
        for x, y, dx in zip(*chunks, strict=True):
            if weight is not None:
                loss += frozen_chunk(weight, x, y, dx if with_gradients else None)
            elif adapted is not None:
                loss += adapted_chunk(
                    adapted, x, y, [dx, *ctx.gradients[1:]] if with_gradients else []
                )
            elif with_gradients:
                loss += trainable_chunk(head, x, y, parameters, [dx, *ctx.gradients[1:]])
            else:
                loss += F.cross_entropy(logits_of(head, x), y, reduction="sum")
        return loss

    @staticmethod
    def backward(ctx, d_loss: Tensor):
        gradients, ctx.gradients = ctx.gradients, None
        d_hidden, *others = [gradient.mul_(d_loss) for gradient in gradients]
        return None, None, d_hidden, None, *others


def frozen_chunk(weight: Tensor, x: Tensor, targets: Tensor, dx: Tensor | None) -> Tensor:
    """Sum of nats of a chunk under a frozen (V, D) head; writes the gradient of x to dx.

    Logits are (V, n): with the tall weight on the left, a CPU multiplies at nearly twice the rate.
    """
    logits = (weight @ x.T).float()  # (V, n)
    at_target = targets[None]
    highest = logits.amax(0)
    chosen = logits.gather(0, at_target)[0] - highest
    probabilities = logits.sub_(highest).exp_()
    total = probabilities.sum(0)
    if dx is not None:
        probabilities.div_(total)
        probabilities.scatter_add_(0, at_target, probabilities.new_full(at_target.shape, -1.0))
        dx.copy_(probabilities.to(weight.dtype).T @ weight)
    return (total.log() - chosen).sum()


def adapted_chunk(
    linear: FusedLinear, x: Tensor, targets: Tensor, gradients: list[Tensor]
) -> Tensor:
    """Sum of nats of a chunk under a frozen head with an adapter.

    Args:
        gradients: to add those of x, A and B to; empty where none are wanted.
    """
    seed = draw_seed(x) if linear.drops else 0
    product, low = linear.forward(x, seed=seed)
    logits, at_target = product.float(), targets[:, None]  # (n, V)
    highest = logits.amax(1, keepdim=True)
    chosen = logits.gather(1, at_target) - highest
    probabilities = logits.sub_(highest).exp_()
    total = probabilities.sum(1, keepdim=True)
    if gradients:
        probabilities.div_(total)
        probabilities.scatter_add_(1, at_target, probabilities.new_full(at_target.shape, -1.0))
        dx, found = linear.backward(probabilities.to(x.dtype), x, low, seed=seed)
        assert dx is not None
        for gradient, more in zip(gradients, [dx, *found], strict=True):
            gradient += more
    return (total.log() - chosen).sum()


def trainable_chunk(
    head: Any, x: Tensor, targets: Tensor, parameters: tuple[Tensor, ...], gradients: list[Tensor]
) -> Tensor:
    """Sum of nats of a chunk under any head; adds gradients of x and parameters to `gradients`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(logits_of(head, x), targets, reduction="sum")
        found = torch.autograd.grad(loss, [x, *parameters])
    for gradient, more in zip(gradients, found, strict=True):
        gradient += more
    return loss.detach()


def logits_of(head: Any, x: Tensor) -> Tensor:
    """Float32 logits; states may be float32 over bf16 weights, see training/layers.py."""
    upcast = x.dtype == torch.float32 and head.weight.dtype == torch.bfloat16
    return head(x.bfloat16() if upcast else x).float()
