"""The backbone for a few new tokens, e.g. one in each row, in fewer and larger operations."""

import functools
import inspect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from effchal.kernels.cpu_linear import FEW_ROWS, is_float32_on_cpu
from effchal.kernels.elementwise import is_compiled
from effchal.kernels.guarded_kernel import GuardedKernel
from effchal.kernels.layer_parts import LayerParts, parts_of
from effchal.kernels.lora_linear import (
    DecodingLinear,
    adapters_of,
    base_and_adapter,
    decoding_linear,
)
from effchal.kernels.norm import RmsNorm, rms_norm_of
from effchal.kernels.row_adapters import RowAdapters
from effchal.kernels.scratch import ScratchBuffers
from effchal.kernels.shared_prefix import SharedReads, attention_with_shared_prefix, shared_reads
from effchal.model.adapter_names import BASE
from effchal.model.structure import has_foreign_hooks

# Beyond, the library's layers are as fast; where weights are tiled, FEW_ROWS. On CUDA estimated: a
# pass of the default serve.prefill_tokens and many rows fits.
FEW_TOKENS = {"cpu": 128, "cuda": 512}


def attention_of_new_tokens(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float) -> Tensor:
    """(B, kv heads, queries, size); the mask is added to the scores."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


attention_by_kernel = GuardedKernel("triton_attention", attention_of_new_tokens)


class KeysAndValues(Protocol):
    """A cache of some rows, prepared for their new tokens."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, new, size); all that the rows hold, (rows, heads, total, size)."""


@dataclass(frozen=True)
class Chunk:
    """New tokens of some rows of one cache, which is extended for them."""

    ids: Tensor  # (B, T) int64
    position_ids: Tensor  # (B, T) int64
    cache: KeysAndValues
    mask: Any  # bool (B, 1, T, C), or one by kind of layer; None where every token sees all columns
    shared: int = 0  # first columns that all rows of an adapter have in common, and all tokens see
    adapters: tuple[str, ...] = ()  # of each row, where the model has several

    @property
    def reads(self) -> SharedReads:
        """How rows read what those of their adapter have in common."""
        return shared_reads(self.adapters or (BASE,) * len(self.ids))


class Norm:
    """RMSNorm of a few rows; in float32 in fewer operations."""

    def __init__(self, norm: RmsNorm) -> None:
        self._norm = norm
        self._eps = norm.gain.new_full((1, 1), norm.eps)

    def __call__(self, x: Tensor) -> Tensor:
        if self._norm.is_one_kernel(x):
            return self._norm.kernel(x)
        if x.dtype != torch.float32:
            return self._norm.module(x)  # it rounds between its steps
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        square = torch.addcmul(self._eps, length, length, value=1 / x.shape[-1])
        return x * square.rsqrt_() * self._norm.gain


class Layer:
    """One decoder layer. It copies no weights, only biases and adapters of another dtype."""

    def __init__(self, parts: LayerParts, scratch: ScratchBuffers, rows: RowAdapters) -> None:
        self.norm, self.mlp_norm = Norm(parts.norm_1), Norm(parts.norm_2)
        self.q_norm, self.k_norm = parts.q_norm, parts.k_norm
        self.after_attention, self.after_mlp = (
            Norm(norm) if norm is not None else None
            for norm in (parts.after_attention, parts.after_mlp)
        )
        self.multiplier, self.rotates = parts.multiplier, parts.rotates
        self.linears = [decoding_linear(modules, scratch, rows) for modules in parts.groups]
        self.qkv, self.out, self.gate_up, self.down = self.linears
        self.act = parts.act.forward
        self.scale = parts.attention.scaling

    def add(self, x: Tensor, more: Tensor, norm: Norm | None) -> Tensor:
        """The residual stream and what attention or MLP adds to it."""
        more = more if norm is None else norm(more)
        return x + (more if self.multiplier == 1 else more * self.multiplier)


class FusedForward:
    """The backbone's formulas in fewer and larger operations."""

    def __init__(self, backbone: Any, layers: list[LayerParts], norm: RmsNorm, config: Any) -> None:
        self.scratch = scratch = ScratchBuffers()
        self._rows = RowAdapters(active_adapter(layers))
        self._embed = backbone.get_input_embeddings()
        self._embed_scale = getattr(backbone, "embedding_multiplier", 1)  # Granite
        self._norm = Norm(norm)
        self._layers = [Layer(layer, scratch, self._rows) for layer in layers]
        default = ["full_attention"] * len(self._layers)
        self._kinds = getattr(config, "layer_types", None) or default
        self._kv_heads, self._heads = config.num_key_value_heads, config.num_attention_heads
        self._size = layers[0].attention.head_dim
        rotary = backbone.rotary_emb
        by_kind = "layer_type" in inspect.signature(rotary.forward).parameters
        self._rotaries = {  # Gemma 3 turns each kind of layer by other angles
            kind: functools.partial(rotary, layer_type=kind) if by_kind else rotary
            for kind in (dict.fromkeys(self._kinds) if by_kind else [None])
        }
        # Where it was measured to be faster.
        self.shares_prefix = is_float32_on_cpu(norm.gain)
        self.max_tokens = FEW_ROWS if self.shares_prefix else FEW_TOKENS[norm.gain.device.type]

    def __call__(self, chunks: list[Chunk], at: Tensor, kept: dict[int, list[Tensor]]) -> Tensor:
        """Run the layers on the N tokens of all chunks in their order, row by row.

        Weights are read once for all chunks.

        Args:
            at: (P,) int64, of the N, whose states are kept.
            kept: for each tapped layer, tensors (P, D) to fill with its input.

        Returns:
            (P, D), states after the final norm.
        """
        self._rows.choose(adapters_of_tokens(chunks), at.device)
        x = self._embed(torch.cat([chunk.ids.flatten() for chunk in chunks]))  # (N, D)
        x = x if self._embed_scale == 1 else x * self._embed_scale
        positions = torch.cat([chunk.position_ids.flatten() for chunk in chunks])
        order, back = self._rows.order, self._rows.back
        if order is not None and back is not None:
            x, positions, at = x[order], positions[order], back[at]
        chunks = [self._worth_sharing(chunk) for chunk in chunks]
        masks = [self._additive(chunk, x.dtype) for chunk in chunks]
        sizes = [chunk.ids.numel() for chunk in chunks]
        ends = list(itertools.accumulate(sizes))
        angles = {
            kind: self._angles(rotary, x, positions) for kind, rotary in self._rotaries.items()
        }
        for number, layer in enumerate(self._layers):
            for state in kept.get(number, ()):
                torch.index_select(x, 0, at, out=state)
            qkv = layer.qkv(layer.norm(x)).view(len(x), -1, self._size)  # (N, all heads, size)
            turn = angles.get(None) or angles[self._kinds[number]]
            values = qkv[:, self._heads + self._kv_heads :]
            qk = self._rotated(layer, qkv[:, : self._heads + self._kv_heads], *turn)
            if back is not None:  # rows know their tokens by the order in which they came
                qk, values = qk.index_select(0, back), values.index_select(0, back)
            mixed = [
                self._attend(chunk, qk[end - size : end], values[end - size : end], number, by_kind)
                for chunk, size, end, by_kind in zip(chunks, sizes, ends, masks, strict=True)
            ]
            attended = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
            out = layer.out(attended if order is None else attended.index_select(0, order))
            x = layer.add(x, out, layer.after_attention)
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = layer.add(x, layer.down(layer.act(gate) * up), layer.after_mlp)
        return self._norm(x.index_select(0, at))

    def add_adapter(self, name: str, layers: Iterable[Any]) -> bool:
        """Let rows choose an adapter that peft has put into the library's layers.

        Returns:
            False where the layers are not known with it.
        """
        for layer, module in zip(self._layers, layers, strict=True):
            parts = parts_of(module)
            if parts is None:
                return False
            for linear, modules in zip(layer.linears, parts.groups, strict=True):
                if not isinstance(linear, DecodingLinear):
                    return False
                linear.add(name, adapters_of(modules, [name] * len(modules)))
        return True

    def drop_adapter(self, name: str) -> None:
        for layer in self._layers:
            for linear in layer.linears:
                if isinstance(linear, DecodingLinear):
                    linear.drop(name)

    def _angles(self, rotary: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, size) cosines, and sines that are negative in their first half."""
        cos, sin = (each.view(len(x), 1, self._size) for each in rotary(x, positions[None]))
        half = self._size // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)

    def _rotated(self, layer: Layer, qk: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries and keys (N, heads + kv heads, size), rotated by their positions."""
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = qk[:, : self._heads], qk[:, self._heads :]
            qk = torch.cat([layer.q_norm.module(q), layer.k_norm.module(k)], dim=1)
        if not layer.rotates:
            return qk
        return qk * cos + qk.roll(self._size // 2, -1) * sin

    def _worth_sharing(self, chunk: Chunk) -> Chunk:
        worth = chunk.shared > 0 and chunk.reads.are_worth(chunk.shared)
        return chunk if worth else replace(chunk, shared=0)

    def _additive(self, chunk: Chunk, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """A mask of the columns that are not shared, by kind of layer."""
        repeats = self._heads // self._kv_heads if chunk.ids.shape[1] > 1 else 1
        mask = chunk.mask
        by_kind = mask if isinstance(mask, dict) else dict.fromkeys(self._kinds, mask)
        return {
            kind: additive_mask(by_kind[kind], chunk.shared, repeats, dtype)
            for kind in set(self._kinds)
        }

    def _attend(
        self, chunk: Chunk, qk: Tensor, values: Tensor, number: int, masks: dict[str, Tensor | None]
    ) -> Tensor:
        """(B * T, heads * size), of the tokens of a chunk."""
        rows, new = chunk.ids.shape
        mask, scale = masks[self._kinds[number]], self._layers[number].scale
        heads, kv_heads, size = self._heads, self._kv_heads, self._size
        new_keys = qk[:, heads:].view(rows, new, kv_heads, size).transpose(1, 2)
        new_values = values.view(rows, new, kv_heads, size).transpose(1, 2)
        keys, values = chunk.cache.update(new_keys, new_values, number)  # (B, kv heads, C, size)
        # The queries that share a key head stand as its rows: no copy of keys and values for each.
        queries = qk[:, :heads].view(rows, new, kv_heads, -1, size).permute(0, 2, 3, 1, 4)
        queries = queries.reshape(rows, kv_heads, -1, size)  # (B, kv heads, group * T, size)
        if chunk.shared:
            mixed = attention_with_shared_prefix(
                queries, keys, values, mask, chunk.shared, chunk.reads, scale
            )
        elif mask is not None and new == 1 and is_compiled(queries):
            mixed = attention_by_kernel(queries, keys, values, mask, scale)
        else:
            mixed = attention_of_new_tokens(queries, keys, values, mask, scale)
        by_token = mixed.view(rows, kv_heads, -1, new, size).permute(0, 3, 1, 2, 4)
        return by_token.reshape(rows * new, heads * size)


def adapters_of_tokens(chunks: list[Chunk]) -> list[str]:
    """One name for each of the N tokens; none where every row goes as the model stands."""
    if not any(each.adapters for each in chunks):
        return []
    rows = [(each, each.adapters or (BASE,) * len(each.ids)) for each in chunks]
    return [name for each, names in rows for name in names for _ in each.ids[0]]


def active_adapter(layers: list[LayerParts]) -> str | None:
    """The name of a model's one adapter; None without one."""
    modules = [module for each in layers for group in each.groups for module in group]
    names = [found[1] for found in map(base_and_adapter, modules) if found is not None]
    return next((name for name in names if name is not None), None)


def additive_mask(
    mask: Tensor | None, from_column: int, repeats: int, dtype: torch.dtype
) -> Tensor | None:
    """What attention would make of a bool mask in each layer anew.

    Args:
        from_column: first column that is kept.
        repeats: queries that share a key head; each gets the mask.
    """
    if mask is None:
        return None
    mask = mask[..., from_column:]
    added = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
    return added.repeat(1, 1, repeats, 1)


def fused_forward(
    backbone: Any, layers: Iterable[Any], norm: Any, config: Any
) -> FusedForward | None:
    """None where layers are not known, or somebody hooks into the backbone."""
    parts = [parts_of(layer) for layer in layers]
    known, last = [each for each in parts if each is not None], rms_norm_of(norm)
    if len(known) < len(parts) or last is None or has_foreign_hooks(backbone):
        return None
    return FusedForward(backbone, known, last, config)
