"""A merged model as one GGUF file, for llama.cpp and what is built on it.

Written by the package gguf, which has names and types but no converter: the models and
tokenizers here are those that a test reads back with the same tokens. All others are refused.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from effchal.config import ConfigError
from effchal.config.choices import GgufType
from effchal.exporting.gguf_tokenizer import add_tokenizer

Array = npt.NDArray[Any]
# transformers' model_type -> llama.cpp's name. Mistral's layers are Llama's there.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
BYTES = {GgufType.f32: 4.0, GgufType.f16: 2.0, GgufType.q8_0: 34 / 32}
BLOCK = 32  # weights of a row that share a scale in q8_0


def require_gguf() -> None:
    """Raises ConfigError if the package is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError("to=gguf needs the package gguf; pip install 'effchal[export]'")


def check_convertible(config: Any) -> None:
    """Say what cannot be written, before any weight is read.

    Args:
        config: transformers', of the text model.

    Raises:
        ConfigError: an architecture, or a trait of one, that was not proven.
    """
    if config.model_type not in ARCHITECTURES:
        raise ConfigError(
            f"to=gguf knows {', '.join(ARCHITECTURES)}, and this model is a {config.model_type}; "
            "give to=merged and convert that folder by llama.cpp's convert_hf_to_gguf.py"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    own_bias = config.model_type == "qwen2"  # of queries, keys and values, always
    found = {
        "rope_type": rope.get("rope_type", "default") not in (None, "default"),
        "attention_bias": not own_bias and bool(getattr(config, "attention_bias", False)),
        "mlp_bias": bool(getattr(config, "mlp_bias", False)),
        # transformers does not read it back, and takes 128.
        "head_dim": config.model_type == "qwen3" and config.head_dim != 128,
        "hidden_act": config.hidden_act != "silu",
        "layer_types": not layers <= {"full_attention", "sliding_attention"} or len(layers) > 1,
    }
    if bad := [name for name, is_unknown in found.items() if is_unknown]:
        raise ConfigError(
            f"to=gguf: this {config.model_type} has another {bad[0]} than is converted here; give "
            "to=merged and convert that folder by llama.cpp's convert_hf_to_gguf.py"
        )


def context_length(config: Any) -> int:
    """Tokens that a text may have: no more than the window, which llama.cpp does not apply."""
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    return min(config.max_position_embeddings, window or config.max_position_embeddings)


def write_gguf(file: Path, model: Any, tokenizer: Any, end: int, kind: GgufType, name: str) -> None:
    """Write a float32 model of transformers and its tokenizer.

    Args:
        end: the token that ends an answer, where it is not the tokenizer's end of sequence.
        name: what programs show.

    Raises:
        ConfigError: a tokenizer that is not converted here, or weights too large for float16.
        OSError: the disk is full, for example.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(file, ARCHITECTURES[model.config.model_type])
    try:
        _add_config(writer, model.config, kind, name)
        add_tokenizer(writer, tokenizer, end, model.get_input_embeddings().weight.shape[0])
        _add_weights(writer, model, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_config(writer: Any, config: Any, kind: GgufType, name: str) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    file_types = {
        GgufType.f32: LlamaFileType.ALL_F32,
        GgufType.f16: LlamaFileType.MOSTLY_F16,
        GgufType.q8_0: LlamaFileType.MOSTLY_Q8_0,
    }
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_types[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_size)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)


def _add_weights(writer: Any, model: Any, kind: GgufType) -> None:
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    state = model.state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    for name, tensor in state.items():
        weights = tensor.to(torch.float32)
        if architecture == "llama":
            weights = _llama_order(name, weights, config)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ConfigError(f"to=gguf: {name} has no name in a GGUF file; give to=merged")
        data, tensor_type = _as_type(weights.numpy(), kind, name)
        writer.add_tensor(target, data, raw_dtype=tensor_type)


def _as_type(weights: Array, kind: GgufType, name: str) -> tuple[Array, Any]:
    """Weights in the file's type; vectors stay float32, as llama.cpp wants them."""
    from gguf import GGMLQuantizationType as Type
    from gguf import quantize

    wanted = {GgufType.f32: Type.F32, GgufType.f16: Type.F16, GgufType.q8_0: Type.Q8_0}[kind]
    if weights.ndim < 2:
        wanted = Type.F32
    elif wanted is Type.Q8_0 and weights.shape[-1] % BLOCK:
        wanted = Type.F16
    if wanted is not Type.F32 and np.abs(weights).max() > np.finfo(np.float16).max:
        raise ConfigError(f"{name} has weights beyond float16; give gguf_type=f32")
    return quantize(weights, wanted), wanted


def _llama_order(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """Rows of q and k reordered: llama.cpp rotates neighbours, transformers halves of a head."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return tensor
    heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
    halves = tensor.view(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)
