"""The bundle's adapter in a folder of its own, as peft loads it."""

import json
import shutil
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.exporting.merged import copy_tokenizer

FILES = ("adapter_config.json", "adapter_model.safetensors")


def require_adapter(bundle: Path) -> Path:
    """The folder of a bundle's adapter. Raises ConfigError for a plain base model."""
    folder = bundle / "adapter"
    if not folder.is_dir():
        raise ConfigError(f"{bundle} is a plain base model without an adapter; give to=merged")
    return folder


def adapter_config(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((require_adapter(bundle) / FILES[0]).read_text())
    return found


def write_adapter(folder: Path, bundle: Path, base_repo: str | None, revision: str | None) -> None:
    """Write adapter, tokenizer and end tokens.

    Args:
        base_repo: id of the base model on the hub. None: the adapter keeps what it names.
        revision: of that repo.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(bundle / "adapter" / FILES[1], folder)
    config = adapter_config(bundle)
    if base_repo is not None:
        config |= {"base_model_name_or_path": base_repo, "revision": revision}
    (folder / FILES[0]).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    copy_tokenizer(bundle, folder)
    shutil.copy2(bundle / "generation_config.json", folder)
