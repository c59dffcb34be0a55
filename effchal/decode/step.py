"""A decode step, one token in each row, without transformers' own work around the arithmetic."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.decode.cache import RowCache
from effchal.decode.products import Joint, Room

# Layers that are: norm, q k v (rotated by halves), attention, o, norm, gated product. One list, held by a test.
KNOWN = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}


class Norm:
    """RMSNorm as these models have it; in float32 in fewer operations."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._eps = module.weight.new_full((1, 1), module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return self._module(x)  # it rounds between its steps
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self._eps, length, length, value=1 / x.shape[-1]).rsqrt_() * self._module.weight


class Layer:
    """One decoder layer; keeps references, no copies."""

    def __init__(self, layer: nn.Module, room: Room) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm, self.mlp_norm = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.qkv = Joint([attention.q_proj, attention.k_proj, attention.v_proj], room)
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.out = Joint([attention.o_proj], room)
        self.gate_up = Joint([mlp.gate_proj, mlp.up_proj], room)
        self.down = Joint([mlp.down_proj], room)
        self.act = mlp.act_fn
        self.scale = attention.scaling


class DecodeStep:
    """The backbone for one new token in each row: the same formulas, fewer and larger operations."""

    def __init__(self, backbone: nn.Module, layers: nn.ModuleList, norm: nn.Module, config: Any) -> None:
        room = Room()
        self._embed, self._rotary, self._norm = backbone.get_input_embeddings(), backbone.rotary_emb, Norm(norm)
        self._layers = [Layer(layer, room) for layer in layers]
        self._kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(layers)
        self._kv_heads = config.num_key_value_heads
        self._heads = config.num_attention_heads
        self._size = layers[0].self_attn.head_dim

    def __call__(
        self, ids: Tensor, position_ids: Tensor, cache: RowCache, mask: Any, at: Tensor, kept: dict[int, list[Tensor]]
    ) -> Tensor:
        """Run the layers on the next token of each row.

        Args:
            ids, position_ids: (B, 1) int64.
            cache: extended for these tokens.
            mask: None where every row sees all its columns, else bool (B, 1, 1, C), or one by kind of layer.
            at: (P,) int64, rows whose states are kept.
            kept: for each tapped layer, tensors (P, D) to fill with its input.

        Returns:
            (P, D), states after the final norm.
        """
        masks = {kind: additive(mask[kind] if isinstance(mask, dict) else mask) for kind in set(self._kinds)}
        x = self._embed(ids[:, 0])  # (B, D)
        cos, sin = self._rotary(x[:, None], position_ids)  # (B, 1, size)
        sin = torch.cat([-sin[..., : self._size // 2], sin[..., self._size // 2 :]], dim=-1)
        for number, layer in enumerate(self._layers):
            for state in kept.get(number, ()):
                torch.index_select(x, 0, at, out=state)
            x = x + layer.out(self._attend(layer, number, layer.norm(x), cos, sin, cache, masks))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.down(layer.act(gate) * up)
        return self._norm(x.index_select(0, at))

    def _attend(
        self,
        layer: Layer,
        number: int,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: RowCache,
        masks: dict[str, Tensor | None],
    ) -> Tensor:
        """(B, D) -> (B, heads * size)."""
        turned = self._heads + self._kv_heads
        qkv = layer.qkv(x).view(x.shape[0], -1, self._size)  # (B, heads + 2 kv heads, size)
        qk = qkv[:, :turned]
        if layer.q_norm is not None:
            qk = torch.cat([layer.q_norm(qk[:, : self._heads]), layer.k_norm(qk[:, self._heads :])], dim=1)
        qk = qk * cos + qk.roll(self._size // 2, -1) * sin
        keys, values = cache.update(qk[:, self._heads :, None], qkv[:, turned:, None], number)  # (B, kv heads, C, size)
        # The queries that share a key head stand as its rows: no copy of keys and values for each.
        queries = qk[:, : self._heads].view(x.shape[0], self._kv_heads, -1, self._size)  # (B, kv heads, shared, size)
        mask = masks[self._kinds[number]]
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=layer.scale).flatten(1)


def additive(mask: Tensor | None) -> Tensor | None:
    """What attention would make of a bool mask in each layer again."""
    return None if mask is None else torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)


def decode_step(backbone: nn.Module, layers: nn.ModuleList, norm: nn.Module, config: Any) -> DecodeStep | None:
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
