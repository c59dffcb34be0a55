"""The parts of a transformers model, adapter or not: backbone, head, layers, final norm.

They are typed Any: what is read of them is the library's, by name. Private names of torch and
transformers that concern a model's structure stand here; checked with torch 2.13.0 and
transformers 5.23.0.
"""

from typing import Any

import torch
from torch import Tensor, nn

from effchal.config import ConfigError

FINAL_NORMS = (
    *("norm", "final_layernorm", "ln_f", "final_layer_norm"),
    *("norm_f", "embedding_norm", "final_norm"),
)


def causal_lm(model: Any) -> Any:
    """The transformers model inside, adapter layers included."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: Any) -> Any:
    """All but the head: input ids -> hidden states after the final norm."""
    whole = causal_lm(model)
    inner = whole.base_model
    return whole.get_decoder() if inner is whole else inner


def head(model: Any) -> Any:
    """Hidden states -> logits."""
    return causal_lm(model).get_output_embeddings()


class StatesAlone:
    """A backbone's output whose other parts are None, whatever they are called."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getitem__(self, number: int) -> Tensor:
        return (self.last_hidden_state,)[number]

    def __getattr__(self, name: str) -> None:
        return None


class OwnEnd(nn.Module):
    """Hidden states (N, D) -> logits (N, V), by the model's own code after its backbone.

    It takes part in what follows the head: a scale, a soft cap. Not thread-safe.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.head = head(model)
        self._whole = [causal_lm(model)]  # in a list: it is no part of this module

    @property
    def weight(self) -> Tensor:
        return self.head.weight

    def forward(self, states: Tensor) -> Tensor:
        (whole,) = self._whole
        inner = backbone(whole)
        replaced = inner.__dict__.get("forward")
        inner.forward = lambda *_, **__: StatesAlone(states[None])
        try:
            ids = states.new_zeros((1, len(states)), dtype=torch.int64)
            return whole(input_ids=ids, use_cache=False).logits[0]
        finally:
            if replaced is None:
                del inner.forward
            else:
                inner.forward = replaced


def fresh_model(model_class: Any, config: Any, **options: Any) -> Any:
    """A model of one of transformers' classes with fresh weights.

    Args:
        options: of transformers' `_from_config`, e.g. dtype and attn_implementation.
    """
    return model_class._from_config(config, **options)


def checkpoint_layers(model: Any) -> None:
    """Keep the input of each layer only, and recompute the rest in the backward pass."""
    inner = causal_lm(model)
    # transformers 5.23 renamed gradient_checkpointing_enable, which 5.18 has.
    newer = getattr(inner, "activation_checkpointing_enable", None)
    (newer or inner.gradient_checkpointing_enable)()


def layers_of(model: Any) -> nn.ModuleList:
    """The decoder layers; the input of layer i is hidden_states[i].

    Raises:
        ConfigError: an architecture whose layers are not found.
    """
    count = causal_lm(model).config.get_text_config().num_hidden_layers
    for module in backbone(model).children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ConfigError(
        f"{type(backbone(model)).__name__} has no list of {count} layers; decoding cannot tap it"
    )


def final_norm(model: Any) -> Any:
    """What the backbone puts between its last layer and the head.

    Raises:
        ConfigError: an architecture whose norm is not found.
    """
    for name in FINAL_NORMS:
        if hasattr(backbone(model), name):
            return getattr(backbone(model), name)
    raise ConfigError(
        f"{type(backbone(model)).__name__} has no final norm that is known; decoding cannot tap it"
    )


def max_positions(config: Any) -> int:
    """Tokens that a text may have, prompt and answer together.

    Args:
        config: text config of the model. One that names no limit has none.
    """
    names = ("max_position_embeddings", "max_seq_len", "seq_length")
    found = [getattr(config, name, None) for name in names]
    return next((limit for limit in found if limit), 1 << 30)


def end_tokens(model: Any) -> set[int]:
    """Ids that end an answer: what config.json and generation_config.json name."""
    whole = causal_lm(model)
    ends: set[int | None] = set()
    for config in (whole.config.get_text_config(), getattr(whole, "generation_config", None)):
        named = getattr(config, "eos_token_id", None)
        ends.update(named if isinstance(named, list) else [named])
    return {each for each in ends if each is not None}


def rope_switch(config: Any) -> int | None:
    """Tokens beyond which the rotary embedding takes other factors for the whole text.

    Args:
        config: text config of the model.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    for each in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if each.get("rope_type") == "longrope":
            named = getattr(config, "original_max_position_embeddings", None)
            return named or each.get("original_max_position_embeddings")
    return None


def attention_name(config: Any) -> str:
    """transformers' name of the attention function that a model's layers call."""
    return config._attn_implementation


def own_attention(model_class: Any) -> str:
    """The attention function that takes any mask: sdpa, or eager where a model has no other."""
    return "sdpa" if model_class._supports_sdpa else "eager"


def set_attention(model: Any) -> None:
    """Give a model back the attention function that takes any mask."""
    whole = causal_lm(model)
    if attention_name(whole.config) != own_attention(type(whole)):
        whole.set_attn_implementation(own_attention(type(whole)))


def forward_hooks(module: nn.Module) -> dict[int, Any]:
    """torch's own table of what is called after a module: a change of it takes effect."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> dict[int, Any]:
    """torch's own table of what is called before a module."""
    return module._forward_pre_hooks


def has_foreign_hooks(module: nn.Module) -> bool:
    """Whether somebody wants to be called when a part of the model runs.

    transformers' own hooks wait for a caller that asks for hidden states, and stay once one did.
    """
    hooks = [
        hook
        for part in module.modules()
        for hook in (*forward_hooks(part).values(), *forward_pre_hooks(part).values())
    ]
    return any(not hook.__module__.startswith("transformers.") for hook in hooks)
