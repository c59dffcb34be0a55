"""The parts of a transformers model, adapter or not: backbone, head, layers, final norm.

They are typed Any: what is read of them is the library's, by name. Private names of torch and
transformers that concern a model's structure stand here; checked with torch 2.13.0 and
transformers 5.23.0.
"""

from typing import Any

from torch import nn

from effchal.config import ConfigError


def causal_lm(model: Any) -> Any:
    """The transformers model inside, adapter layers included."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: Any) -> Any:
    """All but the head: input ids -> hidden states after the final norm."""
    return causal_lm(model).base_model


def head(model: Any) -> Any:
    """Hidden states -> logits."""
    return causal_lm(model).get_output_embeddings()


def checkpoint_layers(model: Any) -> None:
    """Keep the input of each layer only, and recompute the rest in the backward pass."""
    inner = causal_lm(model)
    # transformers 5.23 renamed gradient_checkpointing_enable, which 5.17 has.
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
    for name in ("norm", "final_layernorm", "ln_f", "final_layer_norm"):
        if hasattr(backbone(model), name):
            return getattr(backbone(model), name)
    raise ConfigError(
        f"{type(backbone(model)).__name__} has no final norm that is known; decoding cannot tap it"
    )


def attention_name(config: Any) -> str:
    """transformers' name of the attention function that a model's layers call."""
    return config._attn_implementation


def has_foreign_hooks(module: nn.Module) -> bool:
    """Whether somebody wants to be called when a part of the model runs.

    transformers' own hooks wait for a caller that asks for hidden states, and stay once one did.
    """
    hooks = [
        hook
        for part in module.modules()
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    return any(not hook.__module__.startswith("transformers.") for hook in hooks)
