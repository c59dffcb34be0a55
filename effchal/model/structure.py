"""The parts of a transformers model, adapter or not: backbone, head, layers, final norm."""

from torch import nn

from effchal.config import ConfigError


def causal_lm(model: nn.Module) -> nn.Module:
    """The transformers model inside, adapter layers included."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: nn.Module) -> nn.Module:
    """All but the head: input ids -> hidden states after the final norm."""
    return causal_lm(model).base_model


def head(model: nn.Module) -> nn.Module:
    """Hidden states -> logits."""
    return causal_lm(model).get_output_embeddings()


def layers_of(model: nn.Module) -> nn.ModuleList:
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


def final_norm(model: nn.Module) -> nn.Module:
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
