"""The backbone for a few new tokens, e.g. one in each row, in fewer and larger operations."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from effchal.kernels.cpu_linear import FEW_ROWS, is_float32_on_cpu
from effchal.kernels.lora_linear import decoding_linear
from effchal.kernels.scratch import ScratchBuffers
from effchal.kernels.shared_prefix import attention_with_shared_prefix, is_worth_sharing
from effchal.model.structure import has_foreign_hooks

# Layers that are: norm, q k v (rotated by halves), attention, o, norm, gated product.
KNOWN = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
FEW_TOKENS = 128  # beyond, the library's layers are as fast; where weights are tiled, FEW_ROWS


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
    shared: int = 0  # first columns that are the same in all rows, and seen by every token


class Norm:
    """RMSNorm as these models have it; in float32 in fewer operations."""

    def __init__(self, module: Any) -> None:
        """module: the library's RMSNorm."""
        self._module = module
        self._eps = module.weight.new_full((1, 1), module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return self._module(x)  # it rounds between its steps
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        square = torch.addcmul(self._eps, length, length, value=1 / x.shape[-1])
        return x * square.rsqrt_() * self._module.weight


class Layer:
    """One decoder layer. It copies no weights, only biases and adapters of another dtype."""

    def __init__(self, layer: Any, scratch: ScratchBuffers) -> None:
        """layer: the library's, one of KNOWN."""
        attention, mlp = layer.self_attn, layer.mlp
        self.norm, self.mlp_norm = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.qkv = decoding_linear(qkv, scratch)
        self.q_norm = getattr(attention, "q_norm", None)
        self.k_norm = getattr(attention, "k_norm", None)
        self.out = decoding_linear([attention.o_proj], scratch)
        self.gate_up = decoding_linear([mlp.gate_proj, mlp.up_proj], scratch)
        self.down = decoding_linear([mlp.down_proj], scratch)
        self.act = mlp.act_fn
        self.scale = attention.scaling


class FusedForward:
    """The backbone's formulas in fewer and larger operations."""

    def __init__(self, backbone: Any, layers: Iterable[Any], norm: Any, config: Any) -> None:
        scratch = ScratchBuffers()
        self._embed, self._rotary = backbone.get_input_embeddings(), backbone.rotary_emb
        self._norm = Norm(norm)
        self._layers = [Layer(layer, scratch) for layer in layers]
        default = ["full_attention"] * len(self._layers)
        self._kinds = getattr(config, "layer_types", None) or default
        self._kv_heads, self._heads = config.num_key_value_heads, config.num_attention_heads
        self._size = next(iter(layers)).self_attn.head_dim
        # Where it was measured to be faster.
        self.shares_prefix = is_float32_on_cpu(norm.weight)
        self.max_tokens = FEW_ROWS if self.shares_prefix else FEW_TOKENS

    def __call__(self, chunks: list[Chunk], at: Tensor, kept: dict[int, list[Tensor]]) -> Tensor:
        """Run the layers on the N tokens of all chunks in their order, row by row.

        Weights are read once for all chunks.

        Args:
            at: (P,) int64, of the N, whose states are kept.
            kept: for each tapped layer, tensors (P, D) to fill with its input.

        Returns:
            (P, D), states after the final norm.
        """
        x = self._embed(torch.cat([chunk.ids.flatten() for chunk in chunks]))  # (N, D)
        positions = torch.cat([chunk.position_ids.flatten() for chunk in chunks])
        chunks = [self._worth_sharing(chunk) for chunk in chunks]
        masks = [self._additive(chunk, x.dtype) for chunk in chunks]
        sizes = [chunk.ids.numel() for chunk in chunks]
        ends = list(itertools.accumulate(sizes))
        cos, sin = (
            angles.view(len(x), 1, self._size) for angles in self._rotary(x, positions[None])
        )
        sin = torch.cat([-sin[..., : self._size // 2], sin[..., self._size // 2 :]], dim=-1)
        for number, layer in enumerate(self._layers):
            for state in kept.get(number, ()):
                torch.index_select(x, 0, at, out=state)
            qkv = layer.qkv(layer.norm(x)).view(len(x), -1, self._size)  # (N, all heads, size)
            qk = self._rotated(layer, qkv[:, : self._heads + self._kv_heads], cos, sin)
            mixed = [
                self._attend(chunk, qk[end - size : end], qkv[end - size : end], number, by_kind)
                for chunk, size, end, by_kind in zip(chunks, sizes, ends, masks, strict=True)
            ]
            x = x + layer.out(mixed[0] if len(mixed) == 1 else torch.cat(mixed))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.down(layer.act(gate) * up)
        return self._norm(x.index_select(0, at))

    def _rotated(self, layer: Layer, qk: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries and keys (N, heads + kv heads, size), rotated by their positions."""
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = layer.q_norm(qk[:, : self._heads]), layer.k_norm(qk[:, self._heads :])
            qk = torch.cat([q, k], dim=1)
        return qk * cos + qk.roll(self._size // 2, -1) * sin

    def _worth_sharing(self, chunk: Chunk) -> Chunk:
        worth = is_worth_sharing(chunk.shared, len(chunk.ids))
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
        self, chunk: Chunk, qk: Tensor, qkv: Tensor, number: int, masks: dict[str, Tensor | None]
    ) -> Tensor:
        """(B * T, heads * size), of the tokens of a chunk."""
        rows, new = chunk.ids.shape
        mask, scale = masks[self._kinds[number]], self._layers[number].scale
        heads, kv_heads, size = self._heads, self._kv_heads, self._size
        new_keys = qk[:, heads:].view(rows, new, kv_heads, size).transpose(1, 2)
        new_values = qkv[:, heads + kv_heads :].view(rows, new, kv_heads, size).transpose(1, 2)
        keys, values = chunk.cache.update(new_keys, new_values, number)  # (B, kv heads, C, size)
        # The queries that share a key head stand as its rows: no copy of keys and values for each.
        queries = qk[:, :heads].view(rows, new, kv_heads, -1, size).permute(0, 2, 3, 1, 4)
        queries = queries.reshape(rows, kv_heads, -1, size)  # (B, kv heads, group * T, size)
        if chunk.shared:
            mixed = attention_with_shared_prefix(queries, keys, values, mask, chunk.shared, scale)
        else:
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=scale
            )
        by_token = mixed.view(rows, kv_heads, -1, new, size).permute(0, 3, 1, 2, 4)
        return by_token.reshape(rows * new, heads * size)


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
    known = all(type(layer).__name__ in KNOWN for layer in layers)
    if not known or has_foreign_hooks(backbone):
        return None
    return FusedForward(backbone, layers, norm, config)
