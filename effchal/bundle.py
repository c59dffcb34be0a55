"""A bundle: all that serving needs beside the base model, in one folder that proves itself."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effchal import __version__
from effchal.config import Config, ConfigError, ModelConfig, load_config, save_config
from effchal.model.load import (
    ModelError,
    base_model_fingerprint,
    base_model_path,
    load_adapter,
    load_base_model,
    load_tokenizer,
)
from effchal.training.checkpoint import sync_folder

FORMAT = 1


class BundleError(ConfigError):
    """A bundle that is incomplete, changed, or does not fit its base model."""


def write_bundle(folder: Path, cfg: Config, model: nn.Module | None, tokenizer: Any) -> None:
    """Write adapter, tokenizer, config and manifest; `folder` is replaced only when all is there.

    Args:
        model: with its adapter, or None for a plain base model (lora=none).
    """
    parts = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    if model is not None:
        # No copy of a base head or embedding, and no question to the hub whether one is needed.
        model.save_pretrained(
            parts / "adapter", safe_serialization=True, save_embedding_layers=False
        )
    tokenizer.save_pretrained(parts / "tokenizer")
    save_config(cfg, parts / "config.yaml")
    manifest = {
        "format": FORMAT,
        "files": {str(path.relative_to(parts)): sha256(path) for path in _files(parts)},
        "versions": versions(),
        "base_model": {
            "name": cfg.model.name,
            "revision": cfg.model.revision,
            "fingerprint": base_model_fingerprint(cfg.model),
        },
    }
    (parts / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    for path in _files(parts):
        path.chmod(
            0o644
        )  # peft writes weights for their owner alone; a container runs as another user
    sync_folder(parts)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    parts.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)


def check_bundle(folder: Path) -> dict[str, Any]:
    """The manifest, after every file was compared with it.

    Raises:
        BundleError: not a bundle, or a file is missing, changed or not listed.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise BundleError(
            f"bundle={folder} has no manifest.json; a run leaves its bundle in outputs/train/<run>/bundle"
        )
    try:
        manifest = json.loads(path.read_text())
        listed = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is not a manifest ({error})") from error
    if manifest.get("format") != FORMAT:
        raise BundleError(
            f"{path} has format {manifest.get('format')}; this version reads {FORMAT}"
        )
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing; copy the bundle again")
        if sha256(folder / name) != digest:
            raise BundleError(
                f"{folder / name} has changed since the bundle was written; copy the bundle again"
            )
    for found in _files(folder):
        name = str(found.relative_to(folder))
        if name not in listed and name != "manifest.json":
            raise BundleError(f"{found} is not in the manifest; remove it")
    return manifest


def base_of_bundle(folder: Path, base_model: str | None) -> ModelConfig:
    """The base model of a bundle, after both were checked.

    Args:
        base_model: where the base model lies here, if not where the config says.

    Raises:
        BundleError: the bundle is damaged, or `base_model` is another model.
    """
    manifest = check_bundle(folder)
    base = load_config(folder / "config.yaml").model
    if base_model is not None:
        base = dataclasses.replace(base, name=base_model)
    try:
        base_model_path(base)
    except ModelError as error:
        raise BundleError(
            f"the base model of {folder} is not here: no {base.name}; give base_model=<folder>"
        ) from error
    expected, found = manifest["base_model"]["fingerprint"], base_model_fingerprint(base)
    if expected and found and found != expected:
        wanted = manifest["base_model"]["name"]
        raise BundleError(
            f"{base.name} is not the base model of {folder}, which is {wanted}; give base_model=<folder>"
        )
    return base


def load_bundle_model(folder: Path, base: ModelConfig, device: torch.device) -> nn.Module:
    """The adapter on its base, of a bundle that base_of_bundle has checked."""
    model = load_base_model(base, device)
    return load_adapter(model, folder / "adapter") if (folder / "adapter").is_dir() else model


def load_bundle_tokenizer(folder: Path, base: ModelConfig) -> Any:
    return load_tokenizer(dataclasses.replace(base, name=str(folder / "tokenizer"), revision=None))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    packages = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers")
    found = {"effchal": __version__} | {name: importlib.metadata.version(name) for name in packages}
    for name in ("flash_attn", "liger_kernel"):  # used on a GPU where they are installed
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
