"""What vLLM needs to serve a bundle, with the command."""

import shutil
from pathlib import Path

from effchal.config import Config
from effchal.config.choices import DecodingMethod
from effchal.exporting.adapter import adapter_config, write_adapter
from effchal.training.model_card import VLLM_RANKS

SCRIPT = "serve.sh"
ADAPTER_NAME = "tuned"  # what a request's "model" says
GREEDY = """--override-generation-config '{"temperature": 0}'"""
HEADS = {"lm_head", "embed_out"}


def serves_adapter(cfg: Config, bundle: Path) -> bool:
    """Whether vLLM can keep base model and adapter apart; else it needs a merged model.

    It serves neither DoRA, nor ranks beyond its list, nor adapters of the head. An adapter
    that was trained on NF4 weights belongs to these and not to the plain ones.
    """
    if cfg.lora is None or cfg.lora.use_dora or cfg.model.quantization is not None:
        return False
    targets = adapter_config(bundle)["target_modules"]
    has_head = any(target.rpartition(".")[2] in HEADS for target in targets)
    return cfg.lora.r <= max(VLLM_RANKS) and not has_head


def write_vllm_adapter(
    folder: Path, cfg: Config, bundle: Path, base_repo: str | None, revision: str | None
) -> None:
    """Write adapter/, tokenizer/ and the script that serves them on the base model."""
    write_adapter(folder / "adapter", bundle, base_repo, revision)
    shutil.copytree(bundle / "tokenizer", folder / "tokenizer")
    shutil.copy2(bundle / "generation_config.json", folder)
    assert cfg.lora is not None
    rank = next(rank for rank in VLLM_RANKS if rank >= cfg.lora.r)
    pinned = f" --revision {revision}" if base_repo and revision else ""
    arguments = [
        f'"$BASE_MODEL"{pinned} --tokenizer ./tokenizer',
        "--chat-template ./tokenizer/chat_template.jinja --generation-config .",
        f"--enable-lora --max-lora-rank {rank} --lora-modules {ADAPTER_NAME}=./adapter",
    ]
    default = f":-{base_repo}" if base_repo else ":?give the folder of the base model"
    _write_script(folder, cfg, [f'BASE_MODEL="${{BASE_MODEL{default}}}"'], arguments)


def write_merged_script(folder: Path, cfg: Config) -> None:
    """Write the script that serves the merged model in the same folder."""
    arguments = [f". --served-model-name {ADAPTER_NAME}", "--chat-template ./chat_template.jinja"]
    _write_script(folder, cfg, [], arguments)


def _write_script(folder: Path, cfg: Config, before: list[str], arguments: list[str]) -> None:
    if cfg.decoding.method is not DecodingMethod.sample:
        arguments = [*arguments, GREEDY]
    command = " \\\n  ".join([f"exec vllm serve {arguments[0]}", *arguments[1:], '"$@"'])
    lines = ["#!/bin/sh", "# Serves this model by vLLM; arguments are passed on, e.g. --port 8001."]
    lines += ["set -eu", 'cd "$(dirname "$0")"', *before, command]
    (folder / SCRIPT).write_text("\n".join(lines) + "\n")
