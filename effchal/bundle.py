"""A bundle: one folder with all that serving needs besides the base model, checked by digests."""

import copy
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from effchal.config import Config, ConfigError, ModelConfig, load_config, save_config
from effchal.model.load import base_model_fingerprint, load_adapter, load_base_model
from effchal.model.tokenizer import ModelError, base_model_path, load_tokenizer
from effchal.prompts.encoder import PromptEncoder
from effchal.runs import sync_folder, versions, where_supported

FORMAT = 1
CARD = "adapter/README.md"  # the adapter's model card


class BundleError(ConfigError):
    """A bundle that is incomplete, changed, or does not fit its base model."""


def write_bundle(
    folder: Path, cfg: Config, model: Any, tokenizer: Any, card: str | None = None
) -> None:
    """Write adapter, tokenizer, config and manifest. `folder` is replaced once all is on disk.

    Args:
        model: a peft model, or None for a plain base model (lora=none).
        card: the adapter's model card. None: it has none.

    Raises:
        OSError: the disk is full, for example; a bundle that was there before still is.
    """
    partial = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_files(partial, cfg, model, tokenizer, card)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        found = re.search(r"\(os error (\d+)\)", str(error))  # as safetensors tells it
        number = int(found[1]) if found else getattr(error, "errno", None) or errno.EIO
        raise OSError(number, os.strerror(number), str(folder)) from error
    _put_in_place(partial, folder)


def replace_text(folder: Path, name: str, text: str) -> None:
    """Give a bundle another text in one file. `folder` is replaced once all is on disk.

    Args:
        name: of the file, from the bundle's folder, e.g. CARD.

    Raises:
        OSError: the disk is full, for example; the bundle is as before.
    """
    partial = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(folder, partial, copy_function=_link_or_copy)
        manifest = json.loads((folder / "manifest.json").read_text())
        _replace_file(partial / name, text)
        manifest["files"][name] = sha256(partial / name)
        manifest["files"] = dict(sorted(manifest["files"].items()))
        _replace_file(partial / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _put_in_place(partial, folder)


def _link_or_copy(source: str, target: str) -> None:
    """The same file under another name: its content takes no space and no time."""
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _replace_file(path: Path, text: str) -> None:
    """Write a file anew: the other names of the old one keep its content."""
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
    with where_supported():
        path.chmod(0o644)


def _put_in_place(partial: Path, folder: Path) -> None:
    sync_folder(partial)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)


def _write_files(partial: Path, cfg: Config, model: Any, tokenizer: Any, card: str | None) -> None:
    partial.mkdir(parents=True)
    if model is not None:
        # save_embedding_layers=False: peft would ask the hub whether to copy the base's head.
        model.save_pretrained(
            partial / "adapter", safe_serialization=True, save_embedding_layers=False
        )
        (partial / CARD).unlink(missing_ok=True)  # peft's template, with nothing filled in
        if card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")
    encoder = PromptEncoder(tokenizer, cfg.prompt)
    # With the template of the training, so that other servers spell the same prompts.
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = encoder.chat_template()
    tokenizer.save_pretrained(partial / "tokenizer")
    ends = {"eos_token_id": sorted(encoder.end_ids)}
    (partial / "generation_config.json").write_text(json.dumps(ends) + "\n")
    save_config(dataclasses.replace(cfg, prompt=encoder.templates), partial / "config.yaml")
    manifest = {
        "format": FORMAT,
        "files": {str(path.relative_to(partial)): sha256(path) for path in _files(partial)},
        "versions": versions(),
        "base_model": {
            "name": cfg.model.name,
            "revision": cfg.model.revision,
            "fingerprint": base_model_fingerprint(cfg.model),
        },
    }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    # peft writes for the owner alone, and so may a umask; a container runs as another user.
    for path in (partial, *partial.rglob("*")):
        with where_supported():
            path.chmod(0o755 if path.is_dir() else 0o644)


def check_bundle(folder: Path) -> dict[str, Any]:
    """Compare every file with the manifest, and return the manifest.

    Raises:
        BundleError: not a bundle, or a file is missing, changed or not listed.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise BundleError(
            f"bundle={folder} has no manifest.json; "
            "a run leaves its bundle in outputs/train/<run>/bundle"
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
    """The base model of a bundle, after a check of both.

    Args:
        base_model: folder of the base model on this machine, if not the config's.

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
    check_base_model(folder, base, manifest["base_model"])
    return base


def check_base_model(folder: Path, base: ModelConfig, wanted: dict[str, Any]) -> None:
    """Compare a base model with the one in a bundle's manifest, if both digests are known.

    Raises:
        BundleError: it is another one.
    """
    expected, found = wanted["fingerprint"], base_model_fingerprint(base)
    if expected and found and found != expected:
        raise BundleError(
            f"{base.name} is not the base model of {folder}, which is {wanted['name']}; "
            "give base_model=<folder>"
        )


def load_bundle_model(folder: Path, base: ModelConfig, device: torch.device) -> nn.Module:
    """Base model with the bundle's adapter, for inference. Call base_of_bundle first: it checks.

    Raises:
        BundleError: a base model that has only now come from the hub is another one.
    """
    model = load_base_model(base, device)
    check_base_model(folder, base, json.loads((folder / "manifest.json").read_text())["base_model"])
    return load_adapter(model, folder / "adapter") if (folder / "adapter").is_dir() else model


def load_bundle_tokenizer(folder: Path, base: ModelConfig) -> Any:
    return load_tokenizer(dataclasses.replace(base, name=str(folder / "tokenizer"), revision=None))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":  # Dockerfile.serve: python -m effchal.bundle BUNDLE [BASE_MODEL]
    try:
        if len(sys.argv) > 2:
            base_of_bundle(Path(sys.argv[1]), sys.argv[2])
        else:
            check_bundle(Path(sys.argv[1]))
    except ConfigError as wrong:
        sys.exit(f"error: {wrong}")
