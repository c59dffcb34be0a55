"""Frozen weights of layers that share an input, as one (sum of outs, in) matrix: float or NF4."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effchal.kernels.cpu_linear import linear_by
from effchal.kernels.elementwise import is_compiled
from effchal.kernels.guarded_kernel import GuardedKernel
from effchal.kernels.scratch import ScratchBuffers
from effchal.model.host_memory import release_pages

Product = Callable[[Tensor], Tensor]  # (rows, in) -> (rows, sum of outs)


def is_four_bit(linear: Any) -> bool:
    """Whether it is a 4-bit layer of bitsandbytes, not an adapter around one."""
    return any(
        each.__name__ == "Linear4bit" and each.__module__.startswith("bitsandbytes.")
        for each in type(linear).__mro__
    )


class FloatWeight:
    """Weights one below the other in one memory."""

    def __init__(self, linears: Sequence[nn.Linear], release: bool) -> None:
        """release: give the pages of a mapped weights file back at once."""
        self._linears = linears
        self._own: nn.Module | None = None
        self._tensor = side_by_side([linear.weight for linear in linears], release)

    @property
    def tensor(self) -> Tensor:
        """(sum of outs, in)."""
        return self._tensor if self._own is None else self._own.get_parameter("weight")

    def own(self) -> nn.Module:
        """A module that holds the weight from now on, in place of the layers it was joined from.

        FSDP2 shards the parameters of modules, and gathers them there.
        """
        self._own = nn.Module()
        self._own.weight = nn.Parameter(self._tensor, requires_grad=False)
        for linear in self._linears:
            linear.weight = nn.Parameter(self._tensor.new_empty(0), requires_grad=False)
        self._linears, self._tensor = [], self._tensor.new_empty(0)
        return self._own

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(sum of outs, in). Bfloat16 weights are upcast where `dtype` is float32."""
        return self.tensor.to(dtype)

    def few_rows(self, scratch: ScratchBuffers) -> Product:
        """The product with a few rows, without bias; valid until the next one."""
        return linear_by(self.tensor, scratch)


class FourBitWeight:
    """NF4 weights, unpacked one below the other into one buffer at each use."""

    def __init__(self, linears: Sequence[Any], scratch: ScratchBuffers) -> None:
        """scratch: of all layers; the largest one's weight stays allocated."""
        self._linears, self._scratch = linears, scratch
        self._outs = [linear.out_features for linear in linears]
        self._in = linears[0].in_features

    @property
    def dtype(self) -> torch.dtype:
        return self._linears[0].compute_dtype

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(sum of outs, in), valid until the next call of any layer with the same scratch."""
        like = torch.empty(0, dtype=self.dtype, device=self._linears[0].weight.device)
        whole = self._scratch.take("unpacked", like, sum(self._outs), self._in)
        for linear, rows in zip(self._linears, whole.split(self._outs), strict=True):
            unpack(linear, rows)
        return whole.to(dtype)

    def few_rows(self, scratch: ScratchBuffers) -> Product:
        """The product with a few rows by the library's kernel, bias included."""
        if len(self._linears) == 1:
            return self._linears[0]
        return lambda x: torch.cat([linear(x) for linear in self._linears], dim=-1)


def unpack(linear: Any, out: Tensor) -> None:
    """Write the (out, in) weight of a 4-bit layer to `out`.

    Raises:
        RuntimeError: bitsandbytes has packed it again for its own CPU kernel.
    """
    if hasattr(linear, "unpack_into"):  # the planner's layers have no numbers
        return linear.unpack_into(out)
    packed, state = linear.weight.data, four_bit_state(linear)
    if getattr(state, "packing_format_for_cpu", False):
        raise RuntimeError("a 4-bit weight ran in evaluation mode on this CPU; load it again")
    (unpack_by_kernel if is_compiled(out) and state.nested else unpack_4_bits)(packed, state, out)


def unpack_4_bits(packed: Tensor, state: Any, out: Tensor) -> Tensor:
    """Write a weight of bitsandbytes to `out`, and return it."""
    from bitsandbytes.functional import dequantize_4bit

    if out.is_cuda and state.dtype == out.dtype:
        dequantize_4bit(packed, state, out=out)
    else:
        out.copy_(dequantize_4bit(packed, state))
    return out


unpack_by_kernel = GuardedKernel("triton_elementwise", unpack_4_bits, by_rows=False)


def four_bit_state(linear: Any) -> Any:
    """bitsandbytes' state of a 4-bit layer; FSDP2 puts plain weights in place of its own."""
    return getattr(linear.weight, "quant_state", None) or linear.quant_state


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
