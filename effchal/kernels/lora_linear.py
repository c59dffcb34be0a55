"""Linear layers that share an input, as one product, with their LoRA adapters.

`FusedLinear` lays them side by side; it computes forward and backward for training.
`DecodingLinear` computes the same for a few rows without a gradient, each row with an adapter of
its own where there are several. peft stays the owner of the adapters: its parameters are read and
get gradients, its format is what is saved.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.kernels.adapter_copies import Adapter, AdapterCopies
from effchal.kernels.dropout import CountedMask, Mask, mask_of
from effchal.kernels.frozen_weight import FloatWeight, FourBitWeight, is_four_bit, side_by_side
from effchal.kernels.row_adapters import RowAdapters
from effchal.kernels.scratch import ScratchBuffers

PEFT_LAYERS = ("peft.tuners.lora.layer", "peft.tuners.lora.bnb")


def base_and_adapter(module: Any) -> tuple[Any, str | None] | None:
    """The float or 4-bit linear layer of a module and its adapter's name.

    None where the module computes more than W x + b + scale * B A x in evaluation mode: DoRA,
    several adapters, a merged one, ...
    """
    if type(module) is nn.Linear or is_four_bit(module):
        return module, None
    base = getattr(module, "base_layer", None)
    if type(module).__module__ not in PEFT_LAYERS:
        return None
    if type(base) is not nn.Linear and not is_four_bit(base):
        return None
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    (name,) = module.active_adapters
    if name not in module.lora_A or module.lora_bias.get(name):
        return None
    return None if getattr(module, "lora_variant", {}).get(name) else (base, name)


def adapters_of(modules: list[Any], names: Sequence[str | None]) -> list[Adapter]:
    """The adapter of each module that has one by that name.

    Args:
        names: one for each module; None for no adapter.
    """
    adapters: list[Adapter] = []
    column = rank = 0
    for module, name in zip(modules, names, strict=True):
        end = column + module.out_features
        if name is not None and name in getattr(module, "lora_A", ()):
            a, b = module.lora_A[name].weight, module.lora_B[name].weight
            ranks = slice(rank, rank + len(a))
            adapters.append(Adapter(a, b, module.scaling[name], slice(column, end), ranks))
            rank = ranks.stop
        column = end
    return adapters


def is_plain(module: Any) -> bool:
    """Whether FusedLinear trains what this module would: a frozen weight, a plain adapter."""
    found = base_and_adapter(module)
    return found is not None and not found[0].weight.requires_grad


def dropout_of(modules: list[Any]) -> nn.Dropout | None:
    """The first adapter's dropout; adapters of one configuration have the same."""
    for module in modules:
        found = base_and_adapter(module)
        dropout = module.lora_dropout[found[1]] if found and found[1] else None
        if isinstance(dropout, nn.Dropout):
            return dropout
    return None


class FusedLinear:
    """Layers of one input side by side: q, k, v; gate, up; or one alone.

    Products are in the dtype of what comes in: bfloat16 weights are upcast at each use where that
    is float32. NF4 weights are unpacked at each use.
    """

    def __init__(
        self, modules: list[Any], scratch: ScratchBuffers | None = None, release: bool = True
    ) -> None:
        """modules: such that `base_and_adapter` knows them, all with a bias or none."""
        parts = [part for part in map(base_and_adapter, modules) if part is not None]
        bases = [base for base, _ in parts]
        self.weight: FloatWeight | FourBitWeight
        if is_four_bit(bases[0]):
            self.weight = FourBitWeight(bases, scratch or ScratchBuffers())
        else:
            self.weight = FloatWeight(bases, release)
        biases = [base.bias.detach() for base in bases if base.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        self.dropout = dropout_of(modules)
        self.adapters = adapters_of(modules, [name for _, name in parts])
        self._copies = AdapterCopies(self.adapters)

    def parameters(self) -> list[nn.Parameter]:
        """A and B of each adapter, in the order of the gradients that `backward` gives."""
        return [parameter for adapter in self.adapters for parameter in (adapter.a, adapter.b)]

    def forward(
        self, x: Tensor, residual: Tensor | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """(T, out) outputs, plus `residual` where given, and (T, ranks) x A^T for `backward`.

        Args:
            seed: of the adapters' dropout mask, which the layers of an input share.
        """
        weight = self.weight.matrix(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if residual is None:
            y = F.linear(x, weight, bias)
        else:
            y = torch.addmm(residual, x, weight.T)
            y = y if bias is None else y.add_(bias)
        if not self.adapters:
            return y, None
        self._copies.take(x.dtype)
        low = self._low(x, self._mask(x, seed))
        for adapter, b in zip(self.adapters, self._copies.bs, strict=True):
            y[:, adapter.columns].addmm_(low[:, adapter.ranks], b.T, alpha=self._scale(adapter))
        return y, low

    def backward(
        self, dy: Tensor, x: Tensor, low: Tensor | None, want_dx: bool = True, seed: int = 0
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradient of x (None unless wanted), and those of `parameters()`.

        Adapters are those of the last `forward`.

        Args:
            low: as `forward` gave it; made again where it is None.
            seed: as `forward` had it.
        """
        dx = dy @ self.weight.matrix(dy.dtype) if want_dx else None
        if not self.adapters:
            return dx, []
        mask = self._mask(x, seed)
        low = self._low(x, mask) if low is None else low
        d_low = torch.empty_like(low)
        gradients = self._copies.blank_gradients(dy)
        da, *d_bs = self._copies.parts(gradients)
        for adapter, b, db in zip(self.adapters, self._copies.bs, d_bs, strict=True):
            dy_part, d_low_part = dy[:, adapter.columns], d_low[:, adapter.ranks]
            scale = self._scale(adapter)
            # beta=0: what stood in the memory is not read.
            d_low_part.addmm_(dy_part, b, beta=0, alpha=scale)
            db.addmm_(dy_part.T, low[:, adapter.ranks], beta=0, alpha=scale)
        torch.mm(d_low.T, x if mask is None else mask.times(x), out=da)
        if dx is not None:
            a = self._copies.a
            dx = dx.addmm_(d_low, a) if mask is None else mask.add(dx, d_low @ a)
        return dx, self._copies.of_parameters(gradients)

    @property
    def drops(self) -> bool:
        return self.dropout is not None and self.dropout.training and self.dropout.p > 0

    @property
    def _kept(self) -> float:
        """The share of inputs that the adapters see."""
        return 1 - self.dropout.p if self.dropout is not None and self.drops else 1.0

    def _mask(self, x: Tensor, seed: int) -> Mask | CountedMask | None:
        """None without dropout."""
        return mask_of(x, self._kept, seed) if self.drops else None

    def _scale(self, adapter: Adapter) -> float:
        """The adapter's, which also makes up for what is dropped."""
        return adapter.scale / self._kept

    def _low(self, x: Tensor, mask: Mask | CountedMask | None) -> Tensor:
        return (x if mask is None else mask.times(x)) @ self._copies.a.T  # (T, ranks)


class DecodingLinear:
    """What a FusedLinear computes, for a few rows: (rows, in) -> (rows, sum of outs).

    Adapters are multiplied in the weights' dtype, and their A's are laid in one memory, which
    training must not do: there each is saved and updated on its own.
    """

    def __init__(self, joined: FusedLinear, scratch: ScratchBuffers, rows: RowAdapters) -> None:
        self._product = joined.weight.few_rows(scratch)
        self._bias = joined.bias if isinstance(joined.weight, FloatWeight) else None
        self._dtype = joined.weight.dtype
        self._rows = rows
        self._adapters: dict[str, tuple[Tensor, list[tuple[Adapter, Tensor]]]] = {}

    def add(self, name: str, adapters: list[Adapter]) -> None:
        """Rows may choose these from now on."""
        if adapters:
            parts = [adapter.in_dtype(self._dtype) for adapter in adapters]
            with_b = [(each, each.b.detach().t()) for each in parts]  # B as (r, out)
            self._adapters[name] = side_by_side([each.a for each in parts]), with_b

    def drop(self, name: str) -> None:
        self._adapters.pop(name, None)

    def __call__(self, x: Tensor) -> Tensor:
        """The result is valid until the next call with the same scratch buffers."""
        result = self._product(x)
        if self._bias is not None:
            result += self._bias
        for name, tokens in self._rows.parts:
            if name not in self._adapters:
                continue
            a, parts = self._adapters[name]
            own, out = (x, result) if tokens is None else (x[tokens], result[tokens])
            low = F.linear(own, a)  # (tokens, sum of r)
            for each, b in parts:
                out[:, each.columns].addmm_(low[:, each.ranks], b, alpha=each.scale)
        return result


def decoding_linear(
    modules: list[Any], scratch: ScratchBuffers, rows: RowAdapters
) -> Callable[[Tensor], Tensor]:
    """Layers that read the same input, as one function; unknown ones are called as they are."""
    parts = [base_and_adapter(module) for module in modules]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({base.bias is None for base, _ in known}) > 1:
        if len(modules) == 1:
            return modules[0]
        return lambda x: torch.cat([module(x) for module in modules], dim=-1)
    joined = FusedLinear(modules, release=False)
    linear = DecodingLinear(joined, scratch, rows)
    for name in {name for _, name in known if name is not None}:
        linear.add(name, joined.adapters)
    return linear
