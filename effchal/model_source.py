"""What is served or evaluated: a bundle, or the plain base model; checked first, loaded afterwards."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effchal.cli import overlay
from effchal.config import Config, ConfigError, ModelConfig, load_config

if (
    TYPE_CHECKING
):  # torch comes with them; a server's master process should stay small and fork cleanly
    from effchal.decoding.engine import Engine
    from effchal.model.load import ModelShape


@dataclass(frozen=True)
class ModelSource:
    """A model that was checked and not loaded yet."""

    bundle: Path | None
    base: ModelConfig
    shape: "ModelShape"


def inference_config(cfg: Config, overrides: list[str], free: set[str]) -> Config:
    """The bundle's own config with typed decoding.* and `free` keys on top, or `cfg` with lora=none.

    Raises:
        ConfigError: a bad bundle, an override of what the bundle froze, or no model at all.
    """
    if cfg.bundle is None:
        if cfg.lora is not None:
            raise ConfigError(
                "no model: give bundle=<folder>, or lora=none for the plain base model"
            )
        return cfg
    allowed = {"decoding", "bundle", "base_model"} | free
    return overlay(
        load_config(Path(cfg.bundle) / "config.yaml"), cfg, overrides, allowed, cfg.bundle
    )


def check_model_source(cfg: Config) -> ModelSource:
    """What can be wrong with a bundle or a base model, before any weight is read.

    Raises:
        ConfigError: a damaged bundle, a base model that is missing or another one.
    """
    from effchal.bundle import base_of_bundle
    from effchal.model.load import model_shape

    bundle = None if cfg.bundle is None else Path(cfg.bundle)
    base = cfg.model if bundle is None else base_of_bundle(bundle, cfg.base_model)
    return ModelSource(bundle, base, model_shape(base))


def identity(subject: ModelSource) -> dict[str, Any]:
    """Plain values that tell one bundle or base model from another, to be kept with what was measured of it."""
    from effchal.bundle import base_model_fingerprint, sha256

    manifest = None if subject.bundle is None else sha256(subject.bundle / "manifest.json")
    bundle = {
        "bundle": None if subject.bundle is None else str(subject.bundle),
        "manifest_sha256": manifest,
    }
    base = {"base_model": subject.base.name, "revision": subject.base.revision}
    return bundle | base | {"fingerprint": base_model_fingerprint(subject.base)}


def check_same(before: dict[str, Any], now: dict[str, Any], run_dir: Path) -> None:
    """Raises ConfigError where a resumed run would go on with another model."""
    changed = [key for key in now if now[key] != before.get(key)]
    if changed:
        raise ConfigError(
            f"{run_dir} was begun with another model ({', '.join(changed)} differ); start anew"
        )


def load_source_tokenizer(subject: ModelSource) -> Any:
    from effchal.bundle import load_bundle_tokenizer
    from effchal.model.load import load_tokenizer

    if subject.bundle is None:
        return load_tokenizer(subject.base)
    return load_bundle_tokenizer(subject.bundle, subject.base)


def load_engine(subject: ModelSource) -> "Engine":
    from effchal.bundle import load_bundle_model
    from effchal.decoding.engine import Engine
    from effchal.model.device import pick_device
    from effchal.model.load import load_base_model

    if subject.bundle is None:
        model = load_base_model(subject.base, pick_device())
    else:
        model = load_bundle_model(subject.bundle, subject.base, pick_device())
    return Engine(model, load_source_tokenizer(subject))
