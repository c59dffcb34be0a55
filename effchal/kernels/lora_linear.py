"""Linear layers that share an input, as one product, with their LoRA adapters.

`FusedLinear` lays them side by side; it computes forward and backward for training.
`DecodingLinear` computes the same for a few rows without a gradient. peft stays the owner of the
adapters: its parameters are read and get gradients, its format is what is saved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.kernels.cpu_linear import ScratchBuffers, linear_by
from effchal.model.host_memory import release_pages


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


def base_and_adapter(module: Any) -> tuple[nn.Linear, str | None] | None:
    """The linear layer of a module and its adapter's name.

    None where the module computes more than W x + b + scale * B A x in evaluation mode: NF4, DoRA,
    several adapters, a merged one, ...
    """
    if type(module) is nn.Linear:
        return module, None
    base = getattr(module, "base_layer", None)
    if type(base) is not nn.Linear or type(module).__module__ != "peft.tuners.lora.layer":
        return None
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    (name,) = module.active_adapters
    if name not in module.lora_A or module.lora_bias.get(name):
        return None
    return None if getattr(module, "lora_variant", {}).get(name) else (base, name)


def is_plain(module: Any) -> bool:
    """Whether FusedLinear trains what this module would: a frozen weight, no dropout."""
    found = base_and_adapter(module)
    if found is None or found[0].weight.requires_grad:
        return False
    return found[1] is None or isinstance(module.lora_dropout[found[1]], nn.Identity)


def side_by_side(weights: Sequence[Tensor], release: bool = True) -> Tensor:
    """(sum of outs, in): weights one below the other in one memory. They become views of it.

    Args:
        release: give the pages of a mapped weights file back at once.
    """
    end = weights[0].storage_offset()
    together = all(weight.is_contiguous() for weight in weights)
    for weight in weights:
        together = together and weight.storage_offset() == end and _same_memory(weight, weights[0])
        end += weight.numel()
    if not together:
        whole = torch.cat([weight.data for weight in weights])
        for weight, part in zip(weights, whole.split([len(w) for w in weights]), strict=True):
            copied, weight.data = weight.data, part
            if release:
                release_pages(copied)
    first = weights[0].data
    return first.as_strided((sum(map(len, weights)), first.shape[1]), (first.shape[1], 1))


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one is other or one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class FusedLinear:
    """Layers of one input side by side: q, k, v; gate, up; or one alone.

    Products are in the dtype of what comes in: bfloat16 weights are upcast at each use where that
    is float32.
    """

    def __init__(self, modules: list[Any], release: bool = True) -> None:
        """modules: such that `base_and_adapter` knows them, all with a bias or none."""
        parts = [part for part in map(base_and_adapter, modules) if part is not None]
        bases = [base for base, _ in parts]
        self.weight = side_by_side([base.weight for base in bases], release)  # (out, D_in)
        biases = [base.bias.detach() for base in bases if base.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        self.adapters: list[Adapter] = []
        column = rank = 0
        for module, (base, name) in zip(modules, parts, strict=True):
            end = column + len(base.weight)
            if name is not None:
                a, b = module.lora_A[name].weight, module.lora_B[name].weight
                ranks = slice(rank, rank + len(a))
                self.adapters.append(Adapter(a, b, module.scaling[name], slice(column, end), ranks))
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
            b = adapter.b.to(x.dtype)
            y[:, adapter.columns].addmm_(low[:, adapter.ranks], b.T, alpha=adapter.scale)
        return y, low

    def backward(
        self, dy: Tensor, x: Tensor, low: Tensor | None, want_dx: bool = True
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradient of x (None unless wanted), and those of `parameters()`.

        Args:
            low: as `forward` gave it; made again where it is None.
        """
        dx = dy @ self.weight.to(dy.dtype) if want_dx else None
        if not self.adapters:
            return dx, []
        low = x @ self._joined_a(x.dtype).T if low is None else low
        d_low = torch.empty_like(low)
        d_bs = []
        for adapter in self.adapters:
            dy_part, d_low_part = dy[:, adapter.columns], d_low[:, adapter.ranks]
            torch.mm(dy_part, adapter.b.to(dy.dtype), out=d_low_part).mul_(adapter.scale)
            db = (dy_part.T @ low[:, adapter.ranks]).mul_(adapter.scale)
            d_bs.append(db.to(adapter.b.dtype))
        da = d_low.T @ x  # (ranks, D_in)
        d_as = [da[adapter.ranks].to(adapter.a.dtype) for adapter in self.adapters]
        if dx is not None:
            dx.addmm_(d_low, self._joined_a(dy.dtype))
        return dx, [gradient for pair in zip(d_as, d_bs, strict=True) for gradient in pair]

    def _joined_a(self, dtype: torch.dtype) -> Tensor:
        return torch.cat([adapter.a for adapter in self.adapters]).to(dtype)  # (ranks, D_in)


class DecodingLinear:
    """What a FusedLinear computes, for a few rows: (rows, in) -> (rows, sum of outs).

    Adapters are multiplied in the weights' dtype, and their A's are laid in one memory, which
    training must not do: there each is saved and updated on its own.
    """

    def __init__(self, joined: FusedLinear, scratch: ScratchBuffers) -> None:
        self._product, self._bias = linear_by(joined.weight, scratch), joined.bias
        self._adapters = [adapter.in_dtype(joined.weight.dtype) for adapter in joined.adapters]
        self._a = side_by_side([each.a for each in self._adapters]) if self._adapters else None

    def __call__(self, x: Tensor) -> Tensor:
        """The result is valid until the next call with the same scratch buffers."""
        result = self._product(x)
        if self._bias is not None:
            result += self._bias
        if self._a is not None:
            low = F.linear(x, self._a)  # (rows, sum of r)
            for each in self._adapters:
                result[:, each.columns].addmm_(low[:, each.ranks], each.b.t(), alpha=each.scale)
        return result


def decoding_linear(modules: list[Any], scratch: ScratchBuffers) -> Callable[[Tensor], Tensor]:
    """Layers that read the same input, as one function; unknown ones are called as they are."""
    parts = [base_and_adapter(module) for module in modules]
    if None in parts or len({part[0].bias is None for part in parts if part}) > 1:
        if len(modules) == 1:
            return modules[0]
        return lambda x: torch.cat([module(x) for module in modules], dim=-1)
    return DecodingLinear(FusedLinear(modules, release=False), scratch)
