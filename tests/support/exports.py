"""Bundles of small random models, to export."""

from dataclasses import replace

import torch
import transformers

from effchal.bundle import write_bundle
from effchal.config import ExportConfig, LoraConfig, load_config
from effchal.config.choices import Dtype
from effchal.model.load import add_adapter, load_base_model
from effchal.model.tiny import tiny_folder
from effchal.model.tokenizer import load_tokenizer
from effchal.model_source import check_model_source
from effchal.runs import is_bundle
from support.adapted_models import fill_adapter
from support.configs import compose_config

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 257,
}


def save_base(folder, kind="Llama", **more):
    """A random model with the tiny model's tokenizer; norms and biases are random as well."""
    config = getattr(transformers, f"{kind}Config")(**SIZES | more)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_folder()).save_pretrained(folder)
    return folder


def save_bundle(folder, *words, base="builtin:tiny", **lora):
    """A bundle with a random adapter, as training writes it.

    Args:
        words: as a user types them, e.g. "model.quantization=nf4".
        lora: keys of the adapter; without any, the bundle is the plain base model.
    """
    typed = ["model=tiny", f"model.name={base}", "model.dtype=float32", f"name={folder.name}"]
    cfg = compose_config([*typed, "model.max_seq_len=128", *words])
    model = None
    cfg.lora = LoraConfig(**{"r": 4, "alpha": 8, "target_modules": ALL} | lora) if lora else None
    if lora:
        model = add_adapter(load_base_model(cfg.model, CPU), cfg.lora, seed=0)
        torch.manual_seed(1)
        fill_adapter(model, std=0.1)
    write_bundle(folder, cfg, model, load_tokenizer(cfg.model))
    assert is_bundle(folder)
    return folder


def export_config(bundle, **keys):
    """What `effchal export <bundle>` gets; the test of the command types them."""
    cfg = load_config(bundle / "config.yaml")
    return replace(cfg, bundle=str(bundle), export=ExportConfig(**keys))


def source_of(bundle, dtype=Dtype.float32):
    found = check_model_source(export_config(bundle))
    return replace(found, base=replace(found.base, dtype=dtype))
