"""Exports read again by the programs that they are for."""

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

from effchal.model.device import pick_dtype
from effchal.model.load import load_adapter, load_base_model
from effchal.model.tokenizer import quiet_libraries
from effchal.model_source import ModelSource


def read_merged(folder: Path, source: ModelSource, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer of a merged folder, by transformers."""
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    dtype = pick_dtype(source.base.dtype, device)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map={"": device}, local_files_only=True, use_safetensors=True
    )
    return model.eval(), read_tokenizer(folder)


def read_adapter(folder: Path, source: ModelSource, device: torch.device) -> tuple[Any, Any]:
    """The base model with the adapter of a folder, by peft, and the folder's tokenizer."""
    base = load_base_model(source.base, device)
    return load_adapter(base, folder), read_tokenizer(folder)


def read_gguf(file: Path, source: ModelSource, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, by transformers. Its weights are de-quantised."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quiet_libraries()
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=pick_dtype(source.base.dtype, device),
            device_map={"": device},
            local_files_only=True,
            quantization_config=GgufConfig(dequantize=True),
        )
    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    return model.eval(), tokenizer


def read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
