"""The causal language model of a config.json, which may stand inside a multimodal one."""

from typing import Any

import torch
from torch import nn

from effchal.model.structure import attention_name, backbone, causal_lm, fresh_model


def text_model_class(config: Any) -> Any:
    """transformers' class of the text model that a config describes; None if it has none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    for each in (config.get_text_config(), config):
        found: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(each), None)
        if found is not None and found.config_class is type(config.get_text_config()):
            return found
    return None


def is_multimodal(config: Any) -> bool:
    """Whether the checkpoint holds towers besides the text model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    own = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return config.get_text_config() is not config and own is not text_model_class(config)


def from_config(config: Any, **options: Any) -> Any:
    """The text model of a config with fresh weights.

    Args:
        options: of fresh_model, e.g. dtype and attn_implementation.
    """
    return fresh_model(text_model_class(config), config.get_text_config(), **options)


def keep_layers(config: Any, kept: int) -> None:
    """Change a text config to one with the first `kept` layers alone."""
    total = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == total:
            setattr(config, name, type(value)(value[:kept]))
        elif isinstance(value, list) and name.endswith(("_idxs", "layer_indices", "layers_idx")):
            setattr(config, name, [number for number in value if number < kept])
    config.num_hidden_layers = kept
    shared = getattr(config, "num_kv_shared_layers", None)
    if shared:
        config.num_kv_shared_layers = min(shared, kept // 2)


def text_part(whole: Any) -> nn.Module:
    """The causal language model inside a multimodal one; the other towers are dropped."""
    config = whole.config.get_text_config()
    with torch.device("meta"):
        model = fresh_model(
            text_model_class(whole.config),
            config,
            dtype=whole.dtype,
            attn_implementation=attention_name(whole.config),
        )
    inner = whole.get_decoder()
    if type(inner) is not type(backbone(model)):
        raise ValueError(f"its text model is a {type(inner).__name__}, which is not known")
    setattr(model, model.base_model_prefix, inner)
    model.set_output_embeddings(whole.get_output_embeddings())
    model.generation_config = whole.generation_config
    # peft and bitsandbytes ask for these.
    for name in ("is_loaded_in_4bit", "is_quantized", "hf_quantizer", "quantization_method"):
        if hasattr(whole, name):
            setattr(model, name, getattr(whole, name))
    left = [name for name, tensor in causal_lm(model).named_parameters() if tensor.is_meta]
    if left:
        raise ValueError(f"the text model has no weights for {left[:3]}")
    return model
