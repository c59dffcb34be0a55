"""RMSNorm forward and backward by hand, so that its input alone is kept."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.kernels.elementwise import is_compiled, normed, normed_backward

SAME = 1e-2  # relative difference that rounding to 16 bits explains, twice over


class RmsNorm:
    """x / rms(x) * gain over the last dimension, as a module of the library computes it.

    Gemma's gain is 1 + weight, multiplied before the result is rounded; others' is the weight.
    """

    def __init__(self, module: Any, offset: bool = False) -> None:
        """module: with a weight (D,) and an epsilon."""
        self.module = module
        self.eps: float = getattr(module, "variance_epsilon", None) or module.eps
        self.offset = offset
        self.gain = 1 + module.weight.detach().float() if offset else module.weight.detach()

    def is_one_kernel(self, x: Tensor) -> bool:
        """Whether this norm of x is one kernel, forward and backward: torch's, or a compiled one.

        It rounds once where the library may round twice.
        """
        return self._is_known_to_torch(x) or is_compiled(x)

    def _is_known_to_torch(self, x: Tensor) -> bool:
        return x.device.type == "cuda" and not self.offset and self.gain.dtype == x.dtype

    def kernel(self, x: Tensor) -> Tensor:
        if self._is_known_to_torch(x):  # the host starts it sooner than a compiled one
            return F.rms_norm(x, x.shape[-1:], self.gain, self.eps)
        return normed(x, self.gain, self.eps)

    def scale(self, x: Tensor) -> Tensor | None:
        """(..., 1) float32: 1 / root mean square of x; None where the kernel finds it anew."""
        if self.is_one_kernel(x):
            return None
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return norms.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()

    def apply(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """The norm of x, given its scale."""
        if scale is None:
            return self.kernel(x)
        if self.offset:
            return (x.float() * scale).mul_(self.gain).to(x.dtype)
        return (x.float() * scale).to(x.dtype).mul_(self.gain)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        scale = self.scale(x)
        return self.apply(x, scale), scale

    def backward(
        self, dy: Tensor, x: Tensor, scale: Tensor | None, added: Tensor | None = None
    ) -> Tensor:
        """Gradient of x, plus `added`; overwrites dy where gain and dy have one dtype."""
        if scale is None and is_compiled(x):
            return normed_backward(dy, x, self.gain, self.eps, added)
        if scale is None:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                dx = torch.autograd.grad(self.kernel(x), x, dy)[0]
        else:
            dy, upcast = (dy * self.gain if self.offset else dy.mul_(self.gain)).float(), x.float()
            along = torch.linalg.vecdot(dy, upcast)[..., None].mul_(scale.pow(3)).div_(x.shape[-1])
            dx = dy.mul_(scale).addcmul_(upcast, along, value=-1).to(x.dtype)
        return dx if added is None else dx.add_(added)


def rms_norm_of(module: Any) -> RmsNorm | None:
    """A module of the library as an RmsNorm; None where it computes something else.

    The module is tried, since its code and not its name says what its weight means. A fake one
    of the planner cannot be, and counts as plain.
    """
    weight = getattr(module, "weight", None)
    has_epsilon = hasattr(module, "variance_epsilon") or hasattr(module, "eps")
    if weight is None or weight.ndim != 1 or not has_epsilon or isinstance(module, nn.LayerNorm):
        return None
    if weight.is_meta or type(weight.data) is not Tensor:
        return RmsNorm(module)
    x = torch.linspace(-1, 1.5, len(weight), dtype=weight.dtype, device=weight.device)[None]
    with torch.no_grad():
        expected = module(x).float()
        for offset in (False, True):
            norm = RmsNorm(module, offset)
            off = norm.forward(x)[0].float() - expected
            if off.norm() <= SAME * expected.norm():
                return norm
    return None
