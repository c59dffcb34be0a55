"""Element-wise work of a decoder layer. On a card, one kernel each.

`OneKernel` marks pure functions. On a card, `triton_elementwise` computes each. It rounds once,
where the function as it stands rounds after each operation.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effchal.kernels.guarded_kernel import GuardedKernel

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """Of the MLP's gate, and its gradient."""

    name: str
    forward: Callable[[Tensor], Tensor]
    backward: Callable[..., Tensor]  # (dy, x) -> gradient of x
    backward_into: Callable[..., Tensor]  # (dy, x, grad_input=) writes it there


def _gelu(name: str, approximate: str) -> Activation:
    bound = functools.partial
    return Activation(
        name,
        bound(F.gelu, approximate=approximate),
        bound(aten.gelu_backward, approximate=approximate),
        bound(aten.gelu_backward.grad_input, approximate=approximate),
    )


SILU = Activation("silu", F.silu, aten.silu_backward, aten.silu_backward.grad_input)
GELU, GELU_TANH = _gelu("gelu", "none"), _gelu("gelu_tanh", "tanh")
BY_NAME = {each.name: each for each in (SILU, GELU, GELU_TANH)}

_allowed = True


def allow_compiling(allowed: bool) -> None:
    """config.train.compile_elementwise, for this process."""
    global _allowed
    _allowed = allowed


def is_compiled(x: Tensor) -> bool:
    """Whether functions of x run as one kernel each. A fake tensor of a card counts as if so."""
    return x.is_cuda and _allowed and (type(x) is not Tensor or missing_compiler() is None)


@functools.cache
def missing_compiler() -> str | None:
    """What Triton lacks to compile kernels for a card; None if nothing."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton"
    names = [os.environ.get("CC"), "gcc", "clang", "cc"]
    return None if any(name and shutil.which(name) for name in names) else "a C compiler (gcc)"


class OneKernel:
    """A function of tensors and numbers: one Triton kernel on a card, as it stands elsewhere."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        """function: its first argument says where it runs; `triton_elementwise` has its name."""
        self.function = function
        self.guarded = GuardedKernel("triton_elementwise", function)
        name = f"effchal::{function.__name__}"
        self._counted = torch.library.custom_op(name, function, mutates_args=())
        self._counted.register_fake(function)

    def __call__(self, x: Tensor, *others: Any) -> Tensor:
        if type(x) is not Tensor:  # a fake one, whose launches and bytes are counted
            return self._counted(x, *others)
        return (self.guarded if is_compiled(x) else self.function)(x, *others)


@OneKernel
def normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / rms(x) * gain over the last dimension."""
    upcast = x.float()
    scale = torch.rsqrt(upcast.square().mean(-1, keepdim=True) + eps)
    return (upcast * scale * gain.float()).to(x.dtype)


@OneKernel
def normed_backward(
    dy: Tensor, x: Tensor, gain: Tensor, eps: float, added: Tensor | None
) -> Tensor:
    """Gradient of normed's x, plus `added`."""
    upcast, d_scaled = x.float(), dy.float() * gain.float()
    scale = torch.rsqrt(upcast.square().mean(-1, keepdim=True) + eps)
    along = (d_scaled * upcast).mean(-1, keepdim=True) * scale.pow(3)
    dx = d_scaled * scale - upcast * along
    return (dx if added is None else dx + added.float()).to(x.dtype)


@OneKernel
def rotated(heads: Tensor, cos: Tensor, sin: Tensor, count: int, sign: float) -> Tensor:
    """(T, all heads, size), the first `count` turned by (T, 1, rotated / 2) angles."""
    half, turning = cos.shape[-1], heads[:, :count]
    first, second = turning[..., :half], turning[..., half : 2 * half]
    turned = [first * cos - second * sin * sign, second * cos + first * sin * sign]
    turned.append(turning[..., 2 * half :])
    return torch.cat([torch.cat(turned, -1), heads[:, count:]], 1)


@OneKernel
def gated(gate_up: Tensor, name: str) -> Tensor:
    """(T, 2 F) -> (T, F): activation(gate) * up."""
    gate, up = gate_up.chunk(2, dim=-1)
    return BY_NAME[name].forward(gate) * up


@OneKernel
def gated_backward(gate_up: Tensor, dy: Tensor, name: str) -> Tensor:
    """(T, 2 F), gradient of gated's gate and up."""
    gate, up = gate_up.chunk(2, dim=-1)
    act = BY_NAME[name]
    return torch.cat([act.backward(dy * up, gate), dy * act.forward(gate)], -1)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, count: int, back: bool = False) -> Tensor:
    """Rotary position embedding of the first `count` heads; it may be done in place.

    Args:
        qkv: (T, heads, size).
        cos, sin: (T, 1, rotated / 2).
        back: turn the other way.
    """
    if is_compiled(qkv):
        return rotated(qkv, cos, sin, count, -1.0 if back else 1.0)
    apply_rotary_(qkv[:, :count], cos, -sin if back else sin)
    return qkv


def apply_rotary_(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary position embedding in place: (T, heads, head size) by (T, 1, rotated / 2) angles."""
    half = cos.shape[-1]
    first, second = heads[..., :half], heads[..., half : 2 * half]
    turned = (first * cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(first, sin)
    first.copy_(turned)


def gate(gate_up: Tensor, act: Activation) -> Tensor:
    """(T, F): the activation of the gate times up."""
    if is_compiled(gate_up):
        return gated(gate_up, act.name)
    first, second = gate_up.chunk(2, dim=-1)
    return act.forward(first).mul_(second)


def gate_again(gate_up: Tensor, act: Activation) -> tuple[Tensor, Tensor | None]:
    """`gate`, and what `gate_backward` can use of it."""
    if is_compiled(gate_up):
        return gated(gate_up, act.name), None
    first, second = gate_up.chunk(2, dim=-1)
    activated = act.forward(first)
    return activated * second, activated


def gate_backward(
    d_product: Tensor, gate_up: Tensor, activated: Tensor | None, act: Activation
) -> Tensor:
    """(T, 2 F), gradient of gate_up; overwrites d_product."""
    if activated is None:
        return gated_backward(gate_up, d_product, act.name)
    d_gate_up = torch.empty_like(gate_up)
    d_gate, d_up = d_gate_up.chunk(2, dim=-1)
    first, second = gate_up.chunk(2, dim=-1)
    torch.mul(d_product, activated, out=d_up)
    act.backward_into(d_product.mul_(second), first, grad_input=d_gate)
    return d_gate_up
