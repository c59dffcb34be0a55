"""Attention of packed examples: each sees only itself, and no (T, T) mask is built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.kernels.varlen import runs_varlen, varlen_attention
from effchal.model.route import route_of
from effchal.model.structure import attention_name, backbone, causal_lm

PACKED = "effchal_packed"  # our name among transformers' attention functions
# What layers tell every attention function, and causal attention within lengths needs not know.
HARMLESS = {"position_ids", "position_embeddings", "past_key_values", "use_cache", "is_causal"}
HARMLESS |= {"cache_position", "num_items_in_batch", "output_attentions", "output_hidden_states"}


@dataclass(frozen=True)
class DocumentLengths:
    """Lengths of the examples that a row holds one after the other."""

    lengths: tuple[int, ...]


def packed_hidden_states(
    model: Any, input_ids: Tensor, position_ids: Tensor, lengths: tuple[int, ...]
) -> Tensor:
    """(1, T, D) hidden states of a row of examples, none of which sees another.

    Args:
        input_ids, position_ids: (1, T) int64; positions restart with each example.
        lengths: of the examples.
    """
    if not route_of(model).packed:
        alone = input_ids.split(lengths, dim=1)
        states = [backbone(model)(ids, use_cache=False).last_hidden_state for ids in alone]
        return torch.cat(states, dim=1)
    function = use_packed_attention(model)
    options = {"documents": DocumentLengths(lengths)} if function == PACKED else {}
    # No mask and no cache: an all-ones mask or the default cache would let examples see each other.
    output = backbone(model)(
        input_ids=input_ids, position_ids=position_ids, use_cache=False, **options
    )
    return output.last_hidden_state


def use_packed_attention(model: Any, compiled: bool = False) -> str:
    """Make the model attend within examples; returns the name of its attention function now.

    A model with masks beyond windows keeps its own: sdpa under a dense mask, which transformers
    makes from position_ids. Decoding sets the model back to sdpa.

    Args:
        compiled: torch.compile leaves our function out. Lengths differ each step, so it would be
            compiled again each time.
    """
    config = causal_lm(model).config
    packed = route_of(model).packed and _masks_are_windows(config.get_text_config())
    if attention_name(config) == "sdpa" and packed:
        from transformers import AttentionInterface

        AttentionInterface.register(
            PACKED, torch.compiler.disable(packed_attention) if compiled else packed_attention
        )
        causal_lm(model).set_attn_implementation(PACKED)
    return attention_name(config)


def attention_function(config: Any) -> Callable:
    """The attention function that the model's layers call."""
    from transformers import AttentionInterface

    return AttentionInterface()[attention_name(config)]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    documents: DocumentLengths | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each example, by transformers' protocol for attention functions.

    Args:
        query: (1, H, T, d); key and value: (1, KV heads, T, d).
        sliding_window: how many positions each one sees, itself among them.

    Returns:
        (1, T, H, d), and no weights.
    """
    if documents is None or attention_mask is not None:
        raise RuntimeError(
            "this model was prepared for packed rows; call it through packed_hidden_states"
        )
    _require_known(module, options)
    if dropout == 0 and runs_varlen(query):
        lengths = documents.lengths
        return varlen_attention(query, key, value, lengths, scaling, sliding_window), None
    longest = max(documents.lengths)
    masked = sliding_window is not None and 0 < sliding_window < longest
    if query.device.type == "cuda" and (masked or query.dtype is torch.float32):
        key, value = _one_head_each(query, key, value)
    mixed = []
    parts = (tensor.split(documents.lengths, dim=2) for tensor in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        window = _window_mask(q.shape[2], sliding_window, q.device)
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            window,
            dropout_p=dropout,
            is_causal=window is None,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        mixed.append(out.transpose(1, 2))  # (1, length, H, d)
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)), None


def _require_known(module: nn.Module, options: dict[str, Any]) -> None:
    """Raise RuntimeError where a layer asks for attention that is not plainly causal."""
    told = {name for name, value in options.items() if value is not None and value is not False}
    unknown = sorted(told - HARMLESS)
    if unknown or not getattr(module, "is_causal", True):
        raise RuntimeError(
            f"{type(module).__name__} needs {unknown or 'attention that is not causal'}, "
            "which attention of packed rows does not support"
        )


def _one_head_each(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values for each query head.

    Grouped heads with a mask or in float32 would take the kernel that builds (H, T, T).
    """
    groups = query.shape[1] // key.shape[1]
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """(length, length) bool: position i sees i - window + 1 .. i. None where that is all."""
    if not window or length <= window:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=device)
    return seen.tril_().triu_(1 - window)


def _masks_are_windows(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ())
    return (
        kinds <= {"full_attention", "sliding_attention"}
        and getattr(config, "attention_chunk_size", None) is None
    )
