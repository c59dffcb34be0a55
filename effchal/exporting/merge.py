"""The base model with the bundle's adapter added to its weights."""

import logging
from dataclasses import replace
from typing import Any

import torch

from effchal.config.choices import Dtype, Quantization
from effchal.model.load import base_model_config, load_adapter, load_base_model
from effchal.model.merge import merge_adapter
from effchal.model_source import ModelSource

log = logging.getLogger("effchal.export")
CPU = torch.device("cpu")  # a merge is a few products, and a card may lack the memory


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
