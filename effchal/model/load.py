"""Base model, tokenizer and LoRA adapter: the one place that loads them."""

import contextlib
import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effchal.config import ConfigError, LoraConfig, ModelConfig
from effchal.config.choices import Attention, Quantization
from effchal.model.adapter_targets import adapter_targets, has_transposed_weights
from effchal.model.device import pick_dtype
from effchal.model.structure import max_positions, own_attention
from effchal.model.text_model import is_multimodal, text_model_class, text_part
from effchal.model.tiny import TINY, tiny_folder


class ModelError(ConfigError):
    """A model that cannot be loaded. The message names model.name and the remedy."""


def pick_attention(cfg: ModelConfig, device: torch.device, model_class: Any) -> str:
    """transformers' name of the attention to use.

    Args:
        model_class: transformers', of the model.

    Raises:
        ModelError: flash attention was asked for and cannot run here.
    """
    can = (
        device.type == "cuda"
        and importlib.util.find_spec("flash_attn") is not None
        and torch.cuda.get_device_capability(device)[0] >= 8
        and pick_dtype(cfg.dtype, device) is torch.bfloat16  # its kernels know no float32
        and model_class._supports_flash_attn
    )
    if cfg.attention is Attention.flash_attention_2 and not can:
        raise ModelError(
            "model.attention=flash_attention_2 needs the package flash_attn, an Ampere card or "
            "newer, model.dtype=bfloat16 and a model that supports it; use model.attention=auto"
        )
    if can and cfg.attention is not Attention.sdpa:
        return "flash_attention_2"
    return own_attention(model_class)


def base_model_path(cfg: ModelConfig) -> str:
    """Local folder or hub id to load from, checked before anything heavy starts.

    Raises:
        ModelError: a missing folder, or a hub id without a revision.
    """
    if cfg.name == TINY:
        return str(tiny_folder())
    if Path(cfg.name).is_dir():
        return cfg.name
    looks_local = cfg.name.startswith((".", "/", "~")) or cfg.name.count("/") != 1
    if looks_local:
        hint = "check the path"
        if cfg.name.endswith("smollm2_135m"):
            hint = "run `python scripts/fetch.py smollm2_135m`"
        raise ModelError(
            f"model.name: no folder {cfg.name} (from {Path.cwd()}); {hint}, "
            "or give model.name=<folder>"
        )
    if cfg.revision is None:
        raise ModelError(
            f"model.name={cfg.name} is a hub id and needs model.revision=<commit>, "
            "to be reproducible"
        )
    return cfg.name


def quiet_libraries() -> None:
    """Keep the libraries' own progress bars and remarks out of the log."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it lacks a CPU kernel
    peft_message = ".*is_gradient_checkpointing.*"
    warnings.filterwarnings("ignore", message=peft_message, category=FutureWarning)


@contextlib.contextmanager
def _loading(cfg: ModelConfig):
    try:
        yield
    except PermissionError as error:
        raise ModelError(
            f"model.name={cfg.name}: may not read {error.filename}; chmod -R a+rX {cfg.name}"
        ) from error
    except (OSError, ValueError) as error:  # transformers': missing, gated, unreachable, malformed
        raise ModelError(
            f"cannot load model.name={cfg.name} at revision {cfg.revision}: "
            f"{str(error).strip()[:400]} (with the files in a local folder: model.name=<folder>)"
        ) from error


def load_tokenizer(cfg: ModelConfig) -> Any:
    """The fast tokenizer, with a pad token; from tokenizer.json, never from tokenizer.model.

    Raises:
        ModelError: no tokenizer.json, or no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    quiet_libraries()
    path = base_model_path(cfg)
    if Path(path).is_dir() and not (Path(path) / "tokenizer.json").is_file():
        raise ModelError(
            f"model.name: {path} has no tokenizer.json; without it runs of spaces are mis-tokenized"
        )
    with _loading(cfg):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=cfg.revision)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of model.name={cfg.name} has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only fills rows; it is never a target
    return tokenizer


def load_base_model(cfg: ModelConfig, device: torch.device) -> nn.Module:
    """The frozen base model on `device`, in cfg.dtype or NF4; of a multimodal one, its text part.

    Raises:
        ModelError: it cannot be loaded, or takes fewer positions than cfg.max_seq_len.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig

    quiet_libraries()
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
    attention = pick_attention(cfg, device, text_model_class(config))
    multimodal = is_multimodal(config)
    with _loading(cfg):
        loader: Any = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
        model = loader.from_pretrained(
            path,
            revision=cfg.revision,
            dtype=dtype,
            attn_implementation=attention,
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
    """Digest that identifies a local base model; None for a hub id, which its revision identifies.

    It covers the config, file sizes and both ends of each weight file: milliseconds, where a full
    digest of 14 GB would take a minute.
    """
    folder = Path(base_model_path(cfg))
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    with _loading(cfg):
        for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
            with path.open("rb") as file:
                digest.update(f"{path.name} {path.stat().st_size}".encode())
                digest.update(file.read(1 << 20))
                file.seek(max(0, path.stat().st_size - (1 << 20)))
                digest.update(file.read())
    return digest.hexdigest()


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
    with _loading(cfg):
        return AutoConfig.from_pretrained(path, revision=None if shipped else cfg.revision)


def model_shape(cfg: ModelConfig) -> ModelShape:
    whole = base_model_config(cfg)
    check_model_config(cfg, whole)
    config = whole.get_text_config()
    return ModelShape(
        config.num_hidden_layers, bool(config.tie_word_embeddings), max_positions(config)
    )
