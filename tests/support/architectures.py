"""Small random models of many architectures, and folders of them that the commands take."""

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from effchal.model.tiny import tiny_folder
from support.architecture_table import DELTA_RULE, PAD, SHAPE, TEXT_MODELS

END = 256  # of the tiny tokenizer
SPECIAL = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": PAD}
SMALL_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
SMALL_VISION |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
QWEN_VISION |= {"out_hidden_size": 64}
QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
# Multimodal checkpoints: (config, keys of its text tower, keys of the others).
MULTIMODAL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma-3, multimodal": (
        "Gemma3",
        TEXT_MODELS["gemma-3"][1],
        {"vision_config": SMALL_VISION, "mm_tokens_per_image": 4},
    ),
    "gemma-4, multimodal": ("Gemma4", TEXT_MODELS["gemma-4"][1], {}),
    "mistral-3, multimodal": (
        "Mistral3",
        {"model_type": "mistral"},
        {"vision_config": SMALL_VISION | {"model_type": "pixtral"}},
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VL",
        {"rope_parameters": QWEN_ROPE},
        {"vision_config": QWEN_VISION | {"fullatt_block_indexes": [0]}},
    ),
    "qwen3.5, multimodal": (
        "Qwen3_5",
        DELTA_RULE,
        {"vision_config": QWEN_VISION | {"num_position_embeddings": 16}},
    ),
}
NAMES = [*TEXT_MODELS, *MULTIMODAL]


def make(name: str) -> Any:
    """transformers' config of a small model; for a multimodal one, of all of it."""
    if name in TEXT_MODELS:
        kind, keys = TEXT_MODELS[name]
        return getattr(transformers, kind + "Config")(**SHAPE | SPECIAL | keys)
    kind, keys, others = MULTIMODAL[name]
    text = SHAPE | SPECIAL | keys
    return getattr(transformers, kind + "Config")(text_config=text, **others)


def random_model(name: str, seed: int = 0) -> Any:
    """The model in float32, by the library's eager attention; norms and biases are random."""
    config = make(name)
    auto = transformers.AutoModelForCausalLM
    if name in MULTIMODAL:
        auto = transformers.AutoModelForImageTextToText
    torch.manual_seed(seed)
    model = auto.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    model.generation_config = transformers.GenerationConfig(**SPECIAL)
    return model.float().eval().requires_grad_(False)


def write_folder(name: str, folder: Path) -> Path:
    """The model with the tiny tokenizer, as `model.name=<folder>` takes it; the folder."""
    random_model(name).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder() / file, folder)
    return folder
