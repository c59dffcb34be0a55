"""A merged model as transformers and everything built on it load it."""

import shutil
from pathlib import Path
from typing import Any

from effchal.config import Config
from effchal.config.choices import DecodingMethod

SHARD = "5GB"  # of a file of weights


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
