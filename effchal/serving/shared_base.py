"""Bundles that share one base model in one process: checked before they are loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effchal.cli.several_models import BASE
from effchal.config import Config, ConfigError
from effchal.model_source import (
    ModelSource,
    bundle_folder,
    check_model_source,
    inference_config,
    load_source_tokenizer,
)
from effchal.prompts.encoder import PromptEncoder

NAME = r"[A-Za-z0-9_-]+"
SHARED = ("dtype", "quantization", "double_quant")  # keys of model.* that change the base's numbers


@dataclass(frozen=True)
class CheckedAdapter:
    """A bundle whose adapter fits the base model that is loaded."""

    bundle: Path
    cfg: Config  # with the bundle's own prompt template and decoding
    encoder: PromptEncoder

    @property
    def folder(self) -> Path:
        """What peft saved."""
        return self.bundle / "adapter"


def check_name(name: str, base_name: str) -> None:
    """Raises ConfigError unless a client can ask for an adapter by this name."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"serve.adapters: the name {name!r} may have letters, digits, - and _")
    if name == base_name:
        raise ConfigError(f"serve.adapters: {name} is the base model's own name; take another one")


def base_config(cfg: Config, overrides: list[str]) -> Config:
    """The base model of serve.adapters, with the prompt template of the first one.

    With lora=none the base model is the one that model.* names, with prompt.*.

    Raises:
        ConfigError: a bundle beside them, or none where the first one should be.
    """
    adapters = cfg.serve.adapters
    if cfg.bundle is not None:
        raise ConfigError(
            f"bundle={cfg.bundle} and serve.adapters are both given; name every bundle in "
            f"serve.adapters, e.g. serve.adapters={{tuned: {cfg.bundle}, ...}}"
        )
    if cfg.lora is not None:
        first = next(iter(adapters.values()))
        cfg = replace(cfg, bundle=f"{BASE}:{first}")
    return replace(inference_config(cfg, overrides, {"serve"}), serve=cfg.serve)


def check_adapters(
    cfg: Config, base: ModelSource, typed: Sequence[str]
) -> dict[str, CheckedAdapter]:
    """Those of serve.adapters; see `check_adapter`."""
    adapters = cfg.serve.adapters
    return {name: check_adapter(path, base, cfg, typed) for name, path in adapters.items()}


def check_adapter(
    path: str, base: ModelSource, cfg: Config, typed: Sequence[str]
) -> CheckedAdapter:
    """Check that a bundle's adapter may share the base model.

    Args:
        path: bundle or run folder.
        base: the model that is loaded, without an adapter.
        cfg: of the base model, with what the user typed.
        typed: the user's own words; those on decoding count for every adapter.

    Raises:
        ConfigError: no bundle, no adapter in it, another base model or tokenizer.
    """
    bundle = bundle_folder(path)
    words = [word for word in typed if word.lstrip("+").startswith("decoding")]
    own = inference_config(replace(cfg, bundle=str(bundle)), words, set())
    source = check_model_source(own)
    if not (bundle / "adapter").is_dir():
        raise ConfigError(f"{bundle} has no adapter: it is a plain base model")
    check_same_base(source, base)
    tokenizer = tokenizer_of_same_vocabulary(source, base)
    return CheckedAdapter(bundle, own, PromptEncoder(tokenizer, own.prompt))


def tokenizer_of_same_vocabulary(source: ModelSource, base: ModelSource) -> Any:
    """The tokenizer of `source`.

    Raises:
        ConfigError: it spells texts with other ids than that of `base`.
    """
    tokenizer = load_source_tokenizer(source)
    if tokenizer.get_vocab() != load_source_tokenizer(base).get_vocab():
        raise ConfigError(
            f"{source.bundle} has another vocabulary than its base model; serve it alone"
        )
    return tokenizer


def check_same_base(source: ModelSource, base: ModelSource) -> None:
    """Raises ConfigError unless two sources have the same base weights in the same numbers."""
    from effchal.bundle import base_model_fingerprint

    one, other = (base_model_fingerprint(each.base) for each in (source, base))
    same = one == other
    if one is None or other is None:  # a hub id, which its revision identifies
        keys = ("name", "revision")
        same = all(getattr(source.base, key) == getattr(base.base, key) for key in keys)
    if not same:
        raise ConfigError(
            f"{source.bundle} is an adapter of {source.base.name}, and the base model here is "
            f"{base.base.name}"
        )
    for key in SHARED:
        own, shared = getattr(source.base, key), getattr(base.base, key)
        if own != shared:
            raise ConfigError(
                f"{source.bundle} was trained with model.{key}={_word(own)}, and the base model "
                f"here has {_word(shared)}; serve it alone"
            )


def _word(value: object) -> object:
    return getattr(value, "value", value)
