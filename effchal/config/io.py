"""The only way in and out of the config: from OmegaConf trees and YAML files to Config and back."""

import copy
import io
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from effchal.config.errors import ConfigError, check_numbers, shown
from effchal.config.nearest import REMOVED, RENAMED, RENAMED_VALUES, explain
from effchal.config.schema import Config

NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
FILE_SUFFIXES = re.compile(r"(\.(jsonl?|csv|tsv|parquet|arrow))?(\.(gz|zst))?$", re.IGNORECASE)


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
            mix = plain.setdefault("data_mix", {})
            mix["sources"] = with_named(OmegaConf.select(tree, "data"), mix.get("sources") or {})
        checked = OmegaConf.merge(_schema(), plain)
        missing = OmegaConf.missing_keys(checked)
        if missing:
            raise ConfigError(f"no value for {', '.join(sorted(missing))}")
        config: Any = OmegaConf.to_object(checked)
        check_numbers(config)
        return config
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, Config, plain)) from error


@cache
def _schema() -> Any:
    """The schema as OmegaConf sees it; merge copies it, and building it takes much longer."""
    return OmegaConf.structured(Config)


def with_named(data: Any, sources: dict[str, Any]) -> dict[str, Any]:
    """Sources, and those that `data` names; keys of a source without a path are joined with them.

    Raises:
        ConfigError: `data` is neither a text nor a list of texts, or names a source that is there.
    """
    sources = dict(sources)
    for name, source in sources_of(data).items():
        there = sources.get(name, {})
        if not isinstance(there, dict) or "path" in there:
            raise ConfigError(
                f"data names {source['path']}, and the mix has another source {name}; replace its "
                f"path: data_mix.sources.{name}.path={source['path']}"
            )
        sources[name] = source | there
    return sources


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
        path, weight = split_weight(word)
        name = stem = source_name(path)
        number = 1
        while name in sources:
            number += 1
            name = f"{stem}_{number}"
        sources[name] = {"path": path, "weight": weight}
    return sources


def split_weight(word: str) -> tuple[str, float]:
    """The path of `a.jsonl:2` and its weight, which is 1 where there is none."""
    path, colon, weight = word.rpartition(":")
    if not colon or Path(word).expanduser().exists() or not NUMBER.fullmatch(weight):
        return word, 1.0
    return path, float(weight)


def source_name(path: str) -> str:
    """A name for a source: of its file or data set, or of the folder of `my/*.jsonl`."""
    *folders, last = Path(path).parts or ("",)
    parts = [FILE_SUFFIXES.sub("", last), *reversed(folders)]
    for part in (re.split(r"[*?\[]", part)[0] for part in parts):
        name = re.sub(r"\W+", "_", part).strip("_")
        if name:
            return name
    return "data"


def save_config(cfg: Config, path: Path) -> None:
    """Write it whole or not at all."""
    parts = path.with_name(f".{path.name}")
    parts.write_text(as_yaml(cfg), encoding="utf-8")
    parts.replace(path)


def as_yaml(cfg: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


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
        cfg = _config_of(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is damaged: {reason}") from error
    if cfg is None:
        raise ConfigError(f"{path} holds no keys; it is not a config of effchal")
    return copy.deepcopy(cfg)  # the caller may change it


@lru_cache(maxsize=256)  # a comparison of many evaluations reads the same few again and again
def _config_of(text: str) -> Config | None:
    """None: YAML without keys."""
    tree = OmegaConf.load(io.StringIO(text))
    if not isinstance(tree, DictConfig):
        return None
    for old in (*RENAMED, *REMOVED):
        group, _, key = old.rpartition(".")
        node = OmegaConf.select(tree, group)
        if node is not None and key in node:
            value = node.pop(key)
            if old in RENAMED:
                value = RENAMED_VALUES.get(old, {}).get(value, value)
                OmegaConf.update(tree, RENAMED[old], value)
    return to_config(tree)
