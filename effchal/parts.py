"""The parts of a transformers model, adapter or not: backbone, head, layers, final norm."""

from torch import Tensor, nn

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
    raise ConfigError(f"{type(backbone(model)).__name__} has no list of {count} layers; decoding cannot tap it")


def final_norm(model: nn.Module) -> nn.Module:
    """What the backbone puts between its last layer and the head.

    Raises:
        ConfigError: an architecture whose norm is not found.
    """
    for name in ("norm", "final_layernorm", "ln_f", "final_layer_norm"):
        if hasattr(backbone(model), name):
            return getattr(backbone(model), name)
    raise ConfigError(f"{type(backbone(model)).__name__} has no final norm that is known; decoding cannot tap it")


def packed_hidden_states(model: nn.Module, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """(B, T, D) hidden states of packed rows; examples are apart where position_ids restart.

    Isolation rests on position_ids with no cache and **no** attention mask: an
    all-ones mask or the default cache makes examples of a row see each other,
    without a word.
    """
    rows, length = input_ids.shape
    if causal_lm(model).config._attn_implementation == "flash_attention_2":
        # Its variable-length kernel reads restarts only in a batch of one.
        input_ids, position_ids = input_ids.reshape(1, -1), position_ids.reshape(1, -1)
    hidden = backbone(model)(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
    return hidden.reshape(rows, length, -1)
