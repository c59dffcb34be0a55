"""A step of few tokens, e.g. one in each row, without transformers' own work around the arithmetic."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.decoding.kv_cache import RowCache
from effchal.kernels.cpu_linear import FusedLinear, ScratchBuffers

# Layers that are: norm, q k v (rotated by halves), attention, o, norm, gated product. One list, held by a test.
KNOWN = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
# Columns of the cache that are not read again, from which attention in two parts is faster than in one.
WORTH_SHARING = 2000


@dataclass(frozen=True)
class Part:
    """Next tokens of some rows of one cache, which is extended for them."""

    ids: Tensor  # (B, T) int64
    position_ids: Tensor  # (B, T) int64
    cache: RowCache
    mask: Any  # None where every token sees all its columns, else bool (B, 1, T, C), or one by kind of layer
    shared: int = 0  # first columns that are the same in all rows, and seen by every token


class Norm:
    """RMSNorm as these models have it; in float32 in fewer operations."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._eps = module.weight.new_full((1, 1), module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return self._module(x)  # it rounds between its steps
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (
            x
            * torch.addcmul(self._eps, length, length, value=1 / x.shape[-1]).rsqrt_()
            * self._module.weight
        )


class Layer:
    """One decoder layer; keeps references, and copies of nothing but biases and adapters of another dtype."""

    def __init__(self, layer: nn.Module, room: ScratchBuffers) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm, self.mlp_norm = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.qkv = FusedLinear([attention.q_proj, attention.k_proj, attention.v_proj], room)
        self.q_norm, self.k_norm = (
            getattr(attention, "q_norm", None),
            getattr(attention, "k_norm", None),
        )
        self.out = FusedLinear([attention.o_proj], room)
        self.gate_up = FusedLinear([mlp.gate_proj, mlp.up_proj], room)
        self.down = FusedLinear([mlp.down_proj], room)
        self.act = mlp.act_fn
        self.scale = attention.scaling


class DecodeStep:
    """The backbone for a few new tokens: the same formulas, fewer and larger operations."""

    def __init__(
        self, backbone: nn.Module, layers: nn.ModuleList, norm: nn.Module, config: Any
    ) -> None:
        room = ScratchBuffers()
        self._embed, self._rotary, self._norm = (
            backbone.get_input_embeddings(),
            backbone.rotary_emb,
            Norm(norm),
        )
        self._layers = [Layer(layer, room) for layer in layers]
        self._kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(layers)
        self._kv_heads = config.num_key_value_heads
        self._heads = config.num_attention_heads
        self._size = layers[0].self_attn.head_dim

    def __call__(self, parts: list[Part], at: Tensor, kept: dict[int, list[Tensor]]) -> Tensor:
        """Run the layers on the N tokens of all parts, part by part and row by row; weights are read once for all.

        Args:
            at: (P,) int64, of the N, whose states are kept.
            kept: for each tapped layer, tensors (P, D) to fill with its input.

        Returns:
            (P, D), states after the final norm.
        """
        x = self._embed(torch.cat([part.ids.flatten() for part in parts]))  # (N, D)
        positions = torch.cat([part.position_ids.flatten() for part in parts])
        parts = [self._worth_sharing(part) for part in parts]
        masks = [self._additive(part, x.dtype) for part in parts]
        ends = list(itertools.accumulate(part.ids.numel() for part in parts))
        cos, sin = (
            angles.view(len(x), 1, self._size) for angles in self._rotary(x, positions[None])
        )
        sin = torch.cat([-sin[..., : self._size // 2], sin[..., self._size // 2 :]], dim=-1)
        for number, layer in enumerate(self._layers):
            for state in kept.get(number, ()):
                torch.index_select(x, 0, at, out=state)
            qkv = layer.qkv(layer.norm(x)).view(
                x.shape[0], -1, self._size
            )  # (N, heads + 2 kv heads, size)
            qk = self._turn(layer, qkv[:, : self._heads + self._kv_heads], cos, sin)
            mixed = [
                self._attend(
                    part,
                    qk[end - part.ids.numel() : end],
                    qkv[end - part.ids.numel() : end],
                    number,
                    by_kind,
                )
                for part, end, by_kind in zip(parts, ends, masks, strict=True)
            ]
            x = x + layer.out(mixed[0] if len(mixed) == 1 else torch.cat(mixed))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.down(layer.act(gate) * up)
        return self._norm(x.index_select(0, at))

    def _turn(self, layer: Layer, qk: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries and keys (N, heads + kv heads, size), rotated by their positions."""
        if layer.q_norm is not None:
            qk = torch.cat(
                [layer.q_norm(qk[:, : self._heads]), layer.k_norm(qk[:, self._heads :])], dim=1
            )
        return qk * cos + qk.roll(self._size // 2, -1) * sin

    def _worth_sharing(self, part: Part) -> Part:
        return (
            part if part.shared * (len(part.ids) - 1) >= WORTH_SHARING else replace(part, shared=0)
        )

    def _additive(self, part: Part, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """A mask of the columns that are not shared, by kind of layer."""
        repeats = self._heads // self._kv_heads if part.ids.shape[1] > 1 else 1
        by_kind = (
            part.mask if isinstance(part.mask, dict) else dict.fromkeys(self._kinds, part.mask)
        )
        return {
            kind: additive(by_kind[kind], part.shared, repeats, dtype) for kind in set(self._kinds)
        }

    def _attend(
        self, part: Part, qk: Tensor, qkv: Tensor, number: int, masks: dict[str, Tensor | None]
    ) -> Tensor:
        """(B * T, heads * size), of the tokens of a part."""
        rows, new = part.ids.shape
        mask = masks[self._kinds[number]]
        heads, kv_heads, size = self._heads, self._kv_heads, self._size
        new_keys = qk[:, heads:].view(rows, new, kv_heads, size).transpose(1, 2)
        new_values = qkv[:, heads + kv_heads :].view(rows, new, kv_heads, size).transpose(1, 2)
        keys, values = part.cache.update(new_keys, new_values, number)  # (B, kv heads, C, size)
        # The queries that share a key head stand as its rows: no copy of keys and values for each.
        queries = qk[:, :heads].view(rows, new, kv_heads, -1, size).permute(0, 2, 3, 1, 4)
        queries = queries.reshape(
            rows, kv_heads, -1, size
        )  # (B, kv heads, heads / kv heads * T, size)
        scale = self._layers[number].scale
        if part.shared:
            mixed = attention_with_shared_columns(queries, keys, values, mask, part.shared, scale)
        else:
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=scale
            )
        return (
            mixed.view(rows, kv_heads, -1, new, size)
            .permute(0, 3, 1, 2, 4)
            .reshape(rows * new, heads * size)
        )


def attention_with_shared_columns(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, shared: int, scale: float
) -> Tensor:
    """Attention of rows that begin alike (few-shot examples): what they share is read once, from the first row.

    Each part's result is weighed by its share of the softmax's sum, which the kernel gives as a logarithm.

    Args:
        q: (B, kv heads, Q, size), on a CPU.
        k, v: (B, kv heads, C, size), the same in all rows up to column `shared`; each token sees one of the others.
        mask: (B, 1, Q or 1, C - shared), added to the scores of the other columns, or None.
        scale: of the scores.

    Returns:
        (B, kv heads, Q, size).
    """
    rows, heads, queries, size = q.shape
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    together = q.transpose(0, 1).reshape(1, heads, rows * queries, size)
    of_shared, log_shared = kernel(together, k[:1, :, :shared], v[:1, :, :shared], scale=scale)
    of_own, log_own = kernel(q, k[:, :, shared:], v[:, :, shared:], attn_mask=mask, scale=scale)
    of_shared = of_shared.view(heads, rows, queries, size).transpose(0, 1)
    log_shared = log_shared.reshape(heads, rows, queries).transpose(0, 1)
    share_of_own = torch.sigmoid(log_own.view(rows, heads, queries) - log_shared)
    return torch.lerp(of_shared, of_own, share_of_own[..., None])


def additive(
    mask: Tensor | None, from_column: int, repeats: int, dtype: torch.dtype
) -> Tensor | None:
    """What attention would make of a bool mask in each layer again, once for each query that shares a key head."""
    if mask is None:
        return None
    mask = mask[..., from_column:]
    return (
        torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf).repeat(1, 1, repeats, 1)
    )


def decode_step(
    backbone: nn.Module, layers: nn.ModuleList, norm: nn.Module, config: Any
) -> DecodeStep | None:
    """The fast step of a model whose layers are known, else None: the backbone itself then does it."""
    if not all(type(layer).__name__ in KNOWN for layer in layers):
        return None
    hooks = [
        hook
        for module in backbone.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    # Those of transformers wait for somebody to ask for hidden states, and stay once that was done.
    foreign = any(not hook.__module__.startswith("transformers.") for hook in hooks)
    return None if foreign else DecodeStep(backbone, layers, norm, config)
