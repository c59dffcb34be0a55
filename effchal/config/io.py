"""The only way in and out of the config: from OmegaConf trees and YAML files to Config and back."""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from effchal.config.errors import ConfigError, check_numbers, shown
from effchal.config.nearest import RENAMED, explain
from effchal.config.schema import Config


def to_config(tree: Any) -> Config:
    """OmegaConf tree -> Config. The only place where a DictConfig is seen.

    Raises:
        ConfigError: unknown key (the nearest known one is named), missing value, wrong type.
    """
    # Hydra's `+key=value` can add keys that the schema lacks; this merge refuses them.
    plain: Any = OmegaConf.to_container(tree)
    try:
        if plain.get("data") is not None:
            plain |= {"data": None}
            plain.setdefault("data_mix", {})["sources"] = sources_of(OmegaConf.select(tree, "data"))
        checked = OmegaConf.merge(OmegaConf.structured(Config), plain)
        missing = OmegaConf.missing_keys(checked)
        if missing:
            raise ConfigError(f"no value for {', '.join(sorted(missing))}")
        config: Any = OmegaConf.to_object(checked)
        check_numbers(config)
        return config
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, Config, plain)) from error


def sources_of(data: Any) -> dict[str, dict[str, Any]]:
    """Sources by name, from paths or data set ids, each with a weight behind a colon or without.

    Raises:
        ConfigError: neither a text nor a list of texts.
    """
    words = [data] if isinstance(data, str) else data
    if not isinstance(words, (list, ListConfig)) or not all(isinstance(w, str) for w in words):
        raise ConfigError(
            f"data must be a file or a list of files, got {shown(data)}; "
            "a weight stands behind a colon: data=[a.jsonl:2,b.parquet:0.5]"
        )
    sources: dict[str, dict[str, Any]] = {}
    for word in words:
        path, colon, weight = word.rpartition(":")
        if not colon or Path(word).exists() or not re.fullmatch(r"\d*\.?\d+", weight):
            path, weight = word, "1"
        name = stem = re.sub(r"\W+", "_", Path(path).name.partition(".")[0]) or "data"
        number = 1
        while name in sources:
            number += 1
            name = f"{stem}_{number}"
        sources[name] = {"path": path, "weight": float(weight)}
    return sources


def save_config(cfg: Config, path: Path) -> None:
    """Write it whole or not at all."""
    parts = path.with_name(f".{path.name}")
    OmegaConf.save(OmegaConf.structured(cfg), parts)
    parts.replace(path)


def to_plain(cfg: Config) -> dict[str, Any]:
    """Plain dicts, lists and numbers, for a record that is not YAML."""
    plain: Any = OmegaConf.to_container(OmegaConf.structured(cfg), enum_to_str=True)
    return plain


def load_config(path: Path) -> Config:
    """Read what save_config wrote, also where an earlier version wrote it.

    Raises:
        ConfigError: no such file, a damaged one, or to_config refuses what it says.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist; is {path.parent} a run or bundle folder of effchal?"
        )
    try:
        tree = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is damaged: {reason}") from error
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{path} holds no keys; it is not a config of effchal")
    for old, new in RENAMED.items():
        group, _, key = old.rpartition(".")
        node = OmegaConf.select(tree, group)
        if node is not None and key in node:
            OmegaConf.update(tree, new, node.pop(key))
    return to_config(tree)
