"""Linear layers that share an input, for the tokens of a decode step, each with its own adapter."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effchal.kernels.frozen_weight import FloatWeight, side_by_side
from effchal.kernels.lora_linear import Adapter, FusedLinear, base_and_adapter
from effchal.kernels.row_adapters import RowAdapters
from effchal.kernels.scratch import ScratchBuffers


class JoinedAdapters:
    """The LoRA of one or several adapters: one product by all A's, one a linear by its B's.

    Where tokens have different adapters, a token's ranks that are others' become 0 in between.
    """

    def __init__(self, adapters: dict[str, list[Adapter]]) -> None:
        self.names = frozenset(adapters)
        by_linear: dict[int, list[tuple[str, Adapter]]] = {}
        for name, parts in adapters.items():
            for part in parts:
                by_linear.setdefault(part.columns.start, []).append((name, part))
        self._parts: list[tuple[slice, slice, Tensor, float]] = []  # B as (ranks, out), and scale
        ranks: list[tuple[str, int, float]] = []
        weights: list[Tensor] = []
        end = 0
        for named in by_linear.values():
            parts = [part for _, part in named]
            scales = {part.scale for part in parts}
            # One scale goes into the product: a factor would round once more in bfloat16.
            scale = scales.pop() if len(scales) == 1 else None
            ranks += [(name, len(p.a), p.scale if scale is None else 1.0) for name, p in named]
            weights += [part.a for part in parts]
            start, end = end, end + sum(len(part.a) for part in parts)
            b = parts[0].b if len(parts) == 1 else torch.cat([part.b for part in parts], dim=1)
            self._parts.append(
                (parts[0].columns, slice(start, end), b.t(), 1.0 if scale is None else scale)
            )
        # One adapter's A's move into one memory; several copies would take that of their own.
        self._a = side_by_side(weights) if len(adapters) == 1 else torch.cat(weights)
        self._ranks = tuple(ranks)

    def add_to(self, result: Tensor, x: Tensor, rows: RowAdapters) -> None:
        """Add what the adapters make of x (N, in) to result (N, sum of outs)."""
        low = F.linear(x, self._a)  # (N, sum of ranks)
        if rows.differ:
            low *= rows.factors(self._ranks, low)
        for columns, ranks, b, scale in self._parts:
            result[:, columns].addmm_(low[:, ranks], b, alpha=scale)


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
        self._adapters: dict[str, list[Adapter]] = {}
        self._alone: dict[str, JoinedAdapters] = {}
        self._several: JoinedAdapters | None = None  # of the last step that needed others

    def add(self, name: str, adapters: list[Adapter]) -> None:
        """Rows may choose these from now on."""
        if adapters:
            self._adapters[name] = [each.in_dtype(self._dtype) for each in adapters]
            self._alone[name] = JoinedAdapters({name: self._adapters[name]})

    def drop(self, name: str) -> None:
        if self._adapters.pop(name, None):
            del self._alone[name]
            self._several = None

    def __call__(self, x: Tensor) -> Tensor:
        """The result is valid until the next call with the same scratch buffers."""
        result = self._product(x)
        if self._bias is not None:
            result += self._bias
        names = [name for name in self._rows.names if name in self._adapters]
        if names:
            self._joined(names).add_to(result, x, self._rows)
        return result

    def _joined(self, names: list[str]) -> JoinedAdapters:
        """Those of the running step; others beside them cost time, but no new copies each step."""
        if len(names) == 1:
            return self._alone[names[0]]
        if self._several is None or not self._several.names.issuperset(names):
            self._several = JoinedAdapters({name: self._adapters[name] for name in names})
        return self._several


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
