"""The model that is served or evaluated: a bundle, or the plain base model.

It is checked first and loaded afterwards, so that mistakes show before weights are read.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effchal.cli.compose import overlay
from effchal.cli.several_models import BASE_PLAIN, split_base
from effchal.config import Config, ConfigError, ModelConfig, PromptConfig, load_config
from effchal.model.tokenizer import require_folder
from effchal.prompts.encoder import PromptEncoder, Turn

if TYPE_CHECKING:  # torch comes with them, and a server's master process must stay small
    from effchal.decoding.engine import Engine
    from effchal.model.load import ModelShape
    from effchal.model.merge import Drift

# On which a merged adapter is compared: prose, code and numbers.
MERGE_TEXT = """Explain what this function returns for n = 10, and why it stops:
def f(n):
    return n if n < 2 else f(n - 1) + f(n - 2)
Then say in plain words how a river becomes slower where its bed is wider."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """A model that was checked and not loaded yet."""

    bundle: Path | None
    base: ModelConfig
    shape: "ModelShape"
    prompt: PromptConfig


def bundle_folder(path: str | Path) -> Path:
    """The bundle at `path`, which is its folder or the folder of the run that wrote it.

    Raises:
        ConfigError: no bundle in either place.
    """
    for folder in (Path(path), Path(path) / "bundle"):
        if (folder / "manifest.json").is_file():
            return folder
    raise ConfigError(
        f"bundle={path} is neither a bundle nor a run folder with a finished bundle: "
        f"no {path}/manifest.json and no {path}/bundle/manifest.json"
    )


def inference_config(cfg: Config, overrides: list[str], free: set[str]) -> Config:
    """The bundle's own config with typed decoding.*, model.cuda_graphs and `free` keys on top.

    Without a bundle it is `cfg`, which then must say lora=none. The result's `bundle` is the
    bundle's own folder, also where `cfg.bundle` is a run folder. For `base:<folder>` and
    `base_plain:<folder>` it is the base model of that bundle.

    Raises:
        ConfigError: no bundle there, an override of what it froze, or no model at all.
    """
    if cfg.bundle is None:
        if cfg.lora is not None:
            raise ConfigError(
                "no model: give bundle=<folder>, or lora=none for the plain base model"
            )
        require_folder(cfg.model)
        return cfg
    kind, path = split_base(cfg.bundle)
    folder = bundle_folder(path)
    allowed = {"decoding", "bundle", "base_model", "model.cuda_graphs"} | free
    frozen = load_config(folder / "config.yaml")
    found = overlay(frozen, cfg, overrides, allowed, str(folder))
    if kind is None:
        return replace(found, bundle=str(folder))
    if frozen.lora is None:
        raise ConfigError(f"bundle={cfg.bundle}: {folder} is a plain base model itself")
    prompt = PromptConfig() if kind == BASE_PLAIN else found.prompt
    return replace(found, bundle=None, lora=None, prompt=prompt, name=f"{frozen.name}_{kind}")


def check_model_source(cfg: Config) -> ModelSource:
    """Check the bundle or the base model before any weight is read.

    Raises:
        ConfigError: a damaged bundle, a base model that is missing or another one.
    """
    from effchal.bundle import base_of_bundle
    from effchal.model.load import model_shape
    from effchal.model.tokenizer import pin_revision

    bundle = None if cfg.bundle is None else bundle_folder(cfg.bundle)
    if bundle is not None:
        base = base_of_bundle(bundle, cfg.base_model)
    else:
        base = replace(cfg.model, name=cfg.base_model or cfg.model.name)
        pin_revision(base)
    base = replace(base, cuda_graphs=cfg.model.cuda_graphs)
    return ModelSource(bundle, base, model_shape(base), cfg.prompt)


def identity(source: ModelSource) -> dict[str, Any]:
    """Plain values that tell one model from another, to keep with what was measured of it."""
    from effchal.bundle import base_model_fingerprint, sha256

    bundle = source.bundle
    return {
        "bundle": None if bundle is None else str(bundle),
        "manifest_sha256": None if bundle is None else sha256(bundle / "manifest.json"),
        "base_model": source.base.name,
        "revision": source.base.revision,
        "fingerprint": base_model_fingerprint(source.base),
    }


def check_same(before: dict[str, Any], now: dict[str, Any], run_dir: Path) -> None:
    """Raises ConfigError if a resumed run would go on with another model.

    Where bundle and base model lie may change: their digests tell whether they are the same.
    The digest of a hub id is not known before its weights have come.
    """
    places = {"bundle"} if now["manifest_sha256"] else set()
    if now["fingerprint"] and before.get("fingerprint"):
        places |= {"base_model", "revision"}
    else:
        places.add("fingerprint")
    changed = [key for key in now if key not in places and now[key] != before.get(key)]
    if changed:
        raise ConfigError(
            f"{run_dir} was begun with another model ({', '.join(changed)} differ); start anew"
        )


def load_source_tokenizer(source: ModelSource) -> Any:
    """A fast transformers tokenizer."""
    from effchal.bundle import load_bundle_tokenizer
    from effchal.model.tokenizer import load_tokenizer

    if source.bundle is None:
        return load_tokenizer(source.base)
    return load_bundle_tokenizer(source.bundle, source.base)


def load_engine(
    source: ModelSource, memory_gib: float | None = None, merge_adapter: bool = False
) -> "Engine":
    """Load the weights onto this machine's best device.

    Args:
        memory_gib: what the process may take of a GPU; None is the whole card.
        merge_adapter: add the adapter to the weights; `check_mergeable` says whether it can be.

    Raises:
        ConfigError: the merged model would answer as another one.
        TemplateError: the tokenizer's chat template is wanted, and is missing or of no use.
        ModelError: an architecture that no way is right for, before any weight is read; or the
            tokenizer ends texts with a token that the model has no embedding of.
    """
    from effchal.admission.admit import admit, admit_architecture
    from effchal.bundle import load_bundle_model
    from effchal.decoding.engine import Engine
    from effchal.kernels.step_graphs import CudaRecording
    from effchal.model.device import limit_gpu_memory, pick_device
    from effchal.model.load import base_model_config, load_base_model
    from effchal.model.vocabulary import check_vocabulary

    encoder = PromptEncoder(load_source_tokenizer(source), source.prompt)
    admit_architecture(base_model_config(source.base))  # `admit` knows the result
    device = pick_device()
    limit_gpu_memory(memory_gib, device)
    if source.bundle is None:
        model = load_base_model(source.base, device)
    else:
        model = load_bundle_model(source.bundle, source.base, device)
    drift = None
    if merge_adapter:
        model, drift = merged(model, encoder)
    admit(model)
    uses_graphs = source.base.cuda_graphs and device.type == "cuda"
    engine = Engine(model, encoder.tokenizer, CudaRecording if uses_graphs else None)
    engine.drift = drift
    check_vocabulary(encoder.tokenizer, engine.embeddings)
    engine.ends |= encoder.end_ids
    return engine


def check_mergeable(source: ModelSource) -> None:
    """Raises ConfigError unless the source has an adapter, and weights that can take it in."""
    if source.bundle is None or not (source.bundle / "adapter").is_dir():
        raise ConfigError(
            "serve.merge_adapter=true needs one bundle with an adapter, and no serve.adapters; "
            "leave it out"
        )
    if source.base.quantization is not None:
        raise ConfigError(
            f"serve.merge_adapter=true: weights in {source.base.quantization.value} cannot take an "
            "adapter in; leave it out, or serve what effchal export to=merged makes"
        )


def merged(model: Any, encoder: PromptEncoder) -> tuple[Any, "Drift"]:
    """The model with its adapter in the weights, and how far that moves its answers.

    Raises:
        ConfigError: too far.
    """
    from effchal.model.merge import MOST_NATS, merge_and_measure

    plain, drift = merge_and_measure(model, encoder.prompt_ids([Turn("user", MERGE_TEXT)]))
    if not drift.nats_mean <= MOST_NATS:  # also where it is no number
        raise ConfigError(
            f"serve.merge_adapter=true would serve another model: {drift}; leave it out"
        )
    log.info("adapter merged: %s", drift)
    return plain, drift
