"""Random adapters of the tiny model, saved as peft saves them."""

import json

import torch
from safetensors.torch import load_file, save_file

from effchal.bundle import write_bundle
from effchal.config import LoraConfig, ModelConfig
from effchal.config.choices import Dtype
from effchal.model.load import add_adapter, load_adapter, load_base_model
from effchal.model.tokenizer import load_tokenizer
from support.adapted_models import fill_adapter
from support.configs import compose_config

TINY_MODEL = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
WIDE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NARROW = ["q_proj", "down_proj"]


def tiny_base():
    return load_base_model(TINY_MODEL, torch.device("cpu"))


def save_adapter(folder, seed, r=4, targets=WIDE, **lora):
    """An adapter that changes what the model says."""
    model = add_adapter(
        tiny_base(), LoraConfig(r=r, alpha=2 * r, target_modules=targets, **lora), seed
    )
    torch.manual_seed(seed)
    fill_adapter(model, std=0.3)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def change_config(folder, **keys):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def spoil_weights(folder, value):
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    first = next(iter(weights))
    weights[first] = torch.full_like(weights[first], value)
    save_file(weights, path, metadata={"format": "pt"})


def save_bundle(folder, seed, changes=(), **lora):
    """A bundle of the tiny model with a random adapter, as training writes it.

    Args:
        changes: words such as "prompt.user=Q: {content}", as a user types them.
    """
    cfg = compose_config(["model=tiny", "model.dtype=float32", f"name={folder.name}", *changes])
    cfg.lora = LoraConfig(r=4, alpha=8)
    adapted = save_adapter(folder.with_name(f"{folder.name}_adapter"), seed, **lora)
    model = load_adapter(tiny_base(), adapted)
    write_bundle(folder, cfg, model, load_tokenizer(cfg.model))
    return folder
