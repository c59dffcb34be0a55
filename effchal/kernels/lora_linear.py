"""Linear layers that share an input, as one product, with their LoRA adapters; forward and backward by hand.

peft stays the owner of the adapters: its parameters are read and get gradients, its format is what is saved.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.model.host_memory import release_pages


@dataclass(frozen=True)
class Adapter:
    """One layer's LoRA and the columns of the joined output that it adds to."""

    a: nn.Parameter  # (r, D_in)
    b: nn.Parameter  # (out, r)
    scale: float
    columns: slice  # of the joined output
    ranks: slice  # of the joined rank


def is_plain(module: nn.Module) -> bool:
    """Whether JoinedLinear computes what this layer would: float weights, at most one plain LoRA with no dropout."""
    base = getattr(module, "base_layer", module)
    if type(base) is not nn.Linear or base.weight.requires_grad:
        return False
    if base is module:
        return True
    name, *others = module.active_adapters
    dropout = module.lora_dropout[name]
    return (
        not (others or module.merged or module.disable_adapters or module.lora_variant)
        and name in module.lora_A
        and isinstance(dropout, nn.Identity)
        and module.lora_B[name].bias is None
    )


class JoinedLinear:
    """Layers of one input side by side: q, k, v; gate, up; or one alone.

    Their frozen weights are laid side by side once, and each layer keeps a view of its own part. Products are in the
    dtype of what comes in: bfloat16 weights are widened at each use where that is float32.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        bases = [getattr(layer, "base_layer", layer) for layer in layers]
        self.weight = bases[0].weight.detach()  # (out, D_in)
        if len(bases) > 1:
            self.weight = torch.cat([base.weight.detach() for base in bases])
            parts = self.weight.split([base.out_features for base in bases])
            for base, part in zip(bases, parts, strict=True):
                copied, base.weight.data = base.weight.data, part
                release_pages(copied)
        biases = [base.bias for base in bases]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        self.adapters: list[Adapter] = []
        column = rank = 0
        for layer, base in zip(layers, bases, strict=True):
            end = column + base.out_features
            if layer is not base:
                (name,) = layer.active_adapters
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                ranks = slice(rank, rank + len(a))
                self.adapters.append(Adapter(a, b, layer.scaling[name], slice(column, end), ranks))
                rank = ranks.stop
            column = end

    def parameters(self) -> list[nn.Parameter]:
        """A and B of each adapter, in the order of the gradients that `backward` gives."""
        return [parameter for adapter in self.adapters for parameter in (adapter.a, adapter.b)]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(T, out) outputs, plus `residual` where given, and (T, ranks) x A^T for `backward`."""
        weight = self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if residual is None:
            y = F.linear(x, weight, bias)
        else:
            y = torch.addmm(residual, x, weight.T)
            y = y if bias is None else y.add_(bias)
        if not self.adapters:
            return y, None
        low = x @ self._joined_a(x.dtype).T  # (T, ranks)
        for adapter in self.adapters:
            y[:, adapter.columns].addmm_(
                low[:, adapter.ranks], adapter.b.to(x.dtype).T, alpha=adapter.scale
            )
        return y, low

    def backward(
        self, dy: Tensor, x: Tensor, low: Tensor | None, want_dx: bool = True
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradient of x (None unless wanted), and those of `parameters()`. `low` is made again where it is None."""
        dx = dy @ self.weight.to(dy.dtype) if want_dx else None
        if not self.adapters:
            return dx, []
        low = x @ self._joined_a(x.dtype).T if low is None else low
        d_low = torch.empty_like(low)
        gradients = []
        for adapter in self.adapters:
            dy_part = dy[:, adapter.columns]
            torch.mm(dy_part, adapter.b.to(dy.dtype), out=d_low[:, adapter.ranks]).mul_(
                adapter.scale
            )
            db = (dy_part.T @ low[:, adapter.ranks]).mul_(adapter.scale)
            gradients += [None, db.to(adapter.b.dtype)]
        da = d_low.T @ x  # (ranks, D_in)
        gradients[::2] = [da[adapter.ranks].to(adapter.a.dtype) for adapter in self.adapters]
        if dx is not None:
            dx.addmm_(d_low, self._joined_a(dy.dtype))
        return dx, gradients

    def _joined_a(self, dtype: torch.dtype) -> Tensor:
        return torch.cat([adapter.a for adapter in self.adapters]).to(dtype)  # (ranks, D_in)
