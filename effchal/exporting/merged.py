"""The base model with the adapter in its weights, made, and written as transformers loads it."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from effchal.config import Config
from effchal.config.choices import DecodingMethod, Dtype, Quantization
from effchal.model.load import base_model_config, load_adapter, load_base_model
from effchal.model.merge import merge_adapter
from effchal.model_source import ModelSource

log = logging.getLogger("effchal.export")
CPU = torch.device("cpu")  # a merge is a few products, and a card may lack the memory
SHARD = "5GB"  # of a file of weights


def stored_dtype(source: ModelSource) -> torch.dtype:
    """Type of the base model's weights in its files, as config.json states it."""
    config = base_model_config(source.base)
    found = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.float32


def merged_model(source: ModelSource, dtype: torch.dtype) -> Any:
    """A plain model of transformers on the CPU, whose weights hold the adapter.

    NF4 weights are de-quantised first. Each sum is made in float32 and rounded once.

    Args:
        dtype: of all its weights.
    """
    is_bfloat16 = dtype is stored_dtype(source) is torch.bfloat16
    loaded_as = Dtype.bfloat16 if is_bfloat16 else Dtype.float32  # half the memory, where exact
    model: Any = load_base_model(replace(source.base, dtype=loaded_as), CPU)
    if source.base.quantization is Quantization.nf4:
        log.info("de-quantising the base model's NF4 weights")
        model = model.dequantize()
    if source.bundle is not None and (source.bundle / "adapter").is_dir():
        model = merge_adapter(load_adapter(model, source.bundle / "adapter"))
    return model.to(dtype).eval()


def weight_bytes(model: Any, bytes_each: float) -> int:
    """Bytes of a model's weights in a type of this size, each tensor once."""
    return round(sum(each.numel() for each in model.parameters()) * bytes_each)


def write_merged(
    folder: Path, model: Any, cfg: Config, bundle: Path, tokenizer: Any, ends: list[int]
) -> None:
    """Write weights, config.json, generation_config.json and the bundle's tokenizer.

    Args:
        model: a plain model of transformers.
        ends: ids that end an answer.

    Raises:
        OSError: the disk is full, for example.
    """
    model.generation_config = generation_config(cfg, tokenizer, ends)
    model.config.eos_token_id = ends[0] if len(ends) == 1 else ends
    model.save_pretrained(folder, max_shard_size=SHARD)
    copy_tokenizer(bundle, folder)


def generation_config(cfg: Config, tokenizer: Any, ends: list[int]) -> Any:
    """The end tokens, and the bundle's decoding as far as other programs have it."""
    from transformers import GenerationConfig

    decoding, keys = cfg.decoding, {}
    if decoding.method is DecodingMethod.sample:
        keys = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    if decoding.repetition_penalty != 1:
        keys["repetition_penalty"] = decoding.repetition_penalty
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=decoding.method is DecodingMethod.sample,
        **keys,
    )


def copy_tokenizer(bundle: Path, folder: Path) -> None:
    """The tokenizer with the chat template of the training."""
    shutil.copytree(bundle / "tokenizer", folder, dirs_exist_ok=True)
