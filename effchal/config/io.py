"""The only way in and out of the config: from OmegaConf trees and YAML files to Config and back."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from effchal.config.errors import ConfigError, check_numbers
from effchal.config.nearest import RENAMED, explain
from effchal.config.schema import Config


def to_config(tree: Any) -> Config:
    """OmegaConf tree -> Config. The only place where a DictConfig is seen.

    Raises:
        ConfigError: unknown key (the nearest known one is named), missing value, wrong type.
    """
    try:
        # Hydra's `+key=value` can add keys that the schema lacks; this merge refuses them.
        checked = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(tree))
        missing = OmegaConf.missing_keys(checked)
        if missing:
            raise ConfigError(f"no value for {', '.join(sorted(missing))}")
        config: Any = OmegaConf.to_object(checked)
        check_numbers(config)
        return config
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, Config)) from error


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
