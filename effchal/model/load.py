"""Base model and LoRA adapter: the one place that loads them."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from effchal.config import ConfigError, LoraConfig, ModelConfig
from effchal.config.choices import Quantization
from effchal.model.adapter_targets import adapter_targets, has_transposed_weights
from effchal.model.device import check_dtype, pick_dtype
from effchal.model.structure import max_positions, own_attention
from effchal.model.text_model import is_multimodal, text_model_class, text_part
from effchal.model.tokenizer import ModelError, base_model_path, loading, quiet_libraries


def load_base_model(cfg: ModelConfig, device: torch.device) -> nn.Module:
    """The frozen base model on `device`, in cfg.dtype or NF4; of a multimodal one, its text part.

    Raises:
        ModelError: it cannot be loaded, or takes fewer positions than cfg.max_seq_len.
        ConfigError: bfloat16 was asked for on a card without its arithmetic.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig

    quiet_libraries()
    check_dtype(cfg.dtype, device)
    dtype, path = pick_dtype(cfg.dtype, device), base_model_path(cfg)
    config = base_model_config(cfg)
    check_model_config(cfg, config)
    options: dict[str, Any] = {}
    if cfg.quantization is Quantization.nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=cfg.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
    multimodal = is_multimodal(config)
    with loading(cfg):
        loader: Any = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
        model = loader.from_pretrained(
            path,
            revision=cfg.revision,
            dtype=dtype,
            attn_implementation=own_attention(text_model_class(config)),
            device_map={"": device},
            use_safetensors=True,  # no pickle
            **options,
        )
        if multimodal:
            model = text_part(model)
    model.requires_grad_(False)
    return model.eval()


def check_model_config(cfg: ModelConfig, config: Any) -> None:
    """What config.json and the folder tell before any weight is read.

    Raises:
        ModelError: no text model that generates, too few positions, weights that are pickles.
    """
    if text_model_class(config) is None:
        raise ModelError(
            f"model.name={cfg.name} is a {config.model_type}, which transformers knows no causal "
            "language model of; take a text model"
        )
    limit = max_positions(config.get_text_config())
    if cfg.max_seq_len > limit:
        raise ModelError(
            f"model.max_seq_len={cfg.max_seq_len} is more than this model's {limit} positions"
        )
    folder = Path(base_model_path(cfg))
    if not list(folder.glob("*.safetensors")) and (pickles := sorted(folder.glob("*.bin"))):
        raise ModelError(
            f"model.name: {pickles[0]} is a pickle, which may run any code when it is loaded; "
            "convert the model to safetensors (transformers: save_pretrained)"
        )


def base_model_fingerprint(cfg: ModelConfig) -> str | None:
    """Digest that identifies a base model; None for a hub id whose weights are not in the cache.

    It covers the config, file sizes and both ends of each weight file that is loaded:
    milliseconds, where a full digest of 14 GB would take a minute.
    """
    folder = _folder_of(cfg)
    if folder is None:
        return None
    digest = hashlib.sha256()
    with loading(cfg):
        for path in [folder / "config.json", *_weight_files(folder)]:
            with path.open("rb") as file:
                digest.update(f"{path.name} {path.stat().st_size}".encode())
                digest.update(file.read(1 << 20))
                file.seek(max(0, path.stat().st_size - (1 << 20)))
                digest.update(file.read())
    return digest.hexdigest()


def _folder_of(cfg: ModelConfig) -> Path | None:
    """Where the files of a base model lie on this machine; None for a hub id not all there."""
    path = base_model_path(cfg)
    if Path(path).is_dir():
        return Path(path)
    found = try_to_load_from_cache(path, "config.json", revision=cfg.revision)
    if not isinstance(found, str):
        return None
    files = _weight_files(Path(found).parent)
    return Path(found).parent if files and all(file.is_file() for file in files) else None


def _weight_files(folder: Path) -> list[Path]:
    """The files that are loaded; a repository may hold the same weights once more beside them."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    shards = set(json.loads(index.read_text())["weight_map"].values())
    return [folder / name for name in sorted(shards)]


def add_adapter(model: nn.Module, lora: LoraConfig, seed: int) -> nn.Module:
    """A fresh LoRA adapter (float32) on a frozen base model.

    Raises:
        ConfigError: no module of the model matches lora.target_modules, or takes an adapter.
    """
    import peft

    targets = adapter_targets(model, lora.target_modules)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=has_transposed_weights(model),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
    )
    torch.manual_seed(seed)  # LoRA's A is random
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:  # a layer that it knows no adapter for
        raise ConfigError(f"lora.target_modules={lora.target_modules}: {error}") from error


def load_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """A trained adapter on its base model, for inference."""
    import peft

    return peft.PeftModel.from_pretrained(model, str(folder)).eval()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Turn dropout off for a while, in the middle of training."""
    was_training = model.training
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            # In evaluation mode on a CPU, bitsandbytes silently repacks 4-bit weights for good into
            # a form that passes no gradient.
            module.train()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class ModelShape:
    """What config.json says of a model, known before any weight is read."""

    num_layers: int
    tied: bool  # the head is the embedding matrix
    max_positions: int  # prompt and answer together


def base_model_config(cfg: ModelConfig, shipped: Path | None = None) -> Any:
    """transformers' config of the base model, from its config.json or a copy of that."""
    from transformers import AutoConfig

    quiet_libraries()
    path = str(shipped or base_model_path(cfg))
    with loading(cfg):
        return AutoConfig.from_pretrained(path, revision=None if shipped else cfg.revision)


def model_shape(cfg: ModelConfig) -> ModelShape:
    whole = base_model_config(cfg)
    check_model_config(cfg, whole)
    config = whole.get_text_config()
    return ModelShape(
        config.num_hidden_layers, bool(config.tie_word_embeddings), max_positions(config)
    )
