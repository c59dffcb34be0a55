"""An export from beginning to end: reference answers, writing, reading back, its place, the hub."""

import gc
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from effchal.bundle import sha256
from effchal.config import Config, ConfigError
from effchal.config.choices import ExportTo, GgufType
from effchal.exporting import gguf_file, read_back
from effchal.exporting.adapter import require_adapter, write_adapter
from effchal.exporting.card import ADAPTER, GGUF, MERGED, VLLM, Form, export_card
from effchal.exporting.folder import check_free, check_space, size_of, written_whole
from effchal.exporting.hub import require_online, upload
from effchal.exporting.measure import Measured, Reference, check, measure, reference
from effchal.exporting.merged import merged_model, stored_dtype, weight_bytes, write_merged
from effchal.exporting.vllm import serves_adapter, write_merged_script, write_vllm_adapter
from effchal.model.device import pick_device
from effchal.model.load import base_model_config
from effchal.model.tokenizer import is_hub_id
from effchal.model_source import ModelSource, check_model_source, load_engine, load_source_tokenizer
from effchal.prompts.encoder import PromptEncoder
from effchal.runs import versions
from effchal.tracking.terminal import progress

log = logging.getLogger("effchal.export")
RECORD = "export.json"


@dataclass(frozen=True)
class Task:
    """What is exported, checked and not yet loaded."""

    cfg: Config  # the bundle's, with export.*
    source: ModelSource
    bundle: Path
    base_repo: str | None  # of the base model on the hub
    revision: str | None  # of that
    dtype: torch.dtype  # of merged weights

    @property
    def to(self) -> ExportTo:
        return self.cfg.export.to


def export(cfg: Config, run_dir: Path) -> Path:
    """Write the export and upload it where that is wanted; its folder.

    Args:
        cfg: the bundle's config, with what was typed of export.*.

    Raises:
        ConfigError: something that cannot be exported, or would not be the same model.
        UploadError: the hub did not take it. The folder is there.
    """
    folder = Path(cfg.export.folder or run_dir / cfg.export.to.value)
    check_free(folder)
    task = checked(cfg)
    expected, tokenizer = _reference(task.source)
    with written_whole(folder) as partial:
        form = write(task, partial, tokenizer, expected)
        log.info("reading it back")
        measured = _measured(task, partial, expected)
        check(measured)
        card = export_card(task.cfg, task.bundle, task.base_repo, form, measured)
        (partial / "README.md").write_text(card, encoding="utf-8")
        (partial / RECORD).write_text(json.dumps(_record(task, form, measured), indent=2) + "\n")
    print("\n".join([f"{folder}: {form.made} {size_of(folder) / 1e6:,.1f} MB", *measured.lines()]))
    if cfg.export.push_to_hub is not None:
        print(f"uploaded: {upload(folder, cfg.export.push_to_hub, cfg.export.private)}")
    return folder


def checked(cfg: Config) -> Task:
    """Everything that can be refused before weights are read.

    Raises:
        ConfigError: see above.
    """
    options = cfg.export
    if cfg.bundle is None:
        raise ConfigError(
            "export takes a run folder or a bundle: effchal export outputs/train/<run>"
        )
    if options.push_to_hub is not None:
        require_online(options.push_to_hub)
    source = check_model_source(cfg)
    bundle = source.bundle
    assert bundle is not None
    if options.to is ExportTo.adapter:
        require_adapter(bundle)
    base_repo = options.base_repo or (cfg.model.name if is_hub_id(cfg.model.name) else None)
    if (
        options.push_to_hub
        and base_repo is None
        and options.to in (ExportTo.adapter, ExportTo.vllm)
    ):
        raise ConfigError(
            f"{cfg.model.name} is a folder of this machine; to upload, give "
            "base_repo=<the base model's id on the hub>"
        )
    dtype = getattr(torch, options.weights.value) if options.weights else stored_dtype(source)
    if options.to is ExportTo.gguf:
        gguf_file.require_gguf()
        gguf_file.check_convertible(base_model_config(source.base).get_text_config())
        dtype = torch.float32
    revision = None if options.base_repo else cfg.model.revision
    return Task(cfg, source, bundle, base_repo, revision, dtype)


def _reference(source: ModelSource) -> tuple[Reference, Any]:
    """Answers of the bundle's engine, whose memory is free again, and its tokenizer."""
    encoder = PromptEncoder(load_source_tokenizer(source), source.prompt)
    with progress("loading the model"):
        engine = load_engine(source)
    with progress("asking the bundle's own engine"):
        found = reference(engine, encoder)
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    return found, encoder.tokenizer


def write(task: Task, folder: Path, tokenizer: Any, expected: Reference) -> Form:
    """Write the files of the form that is wanted into an empty folder."""
    cfg, bundle = task.cfg, task.bundle
    if task.to is ExportTo.adapter:
        check_space(folder, size_of(bundle / "adapter"))
        write_adapter(folder, bundle, task.base_repo, task.revision)
        return Form("adapter", ADAPTER, "The adapter as it was trained.", has_weights=False)
    if task.to is ExportTo.vllm and serves_adapter(cfg, bundle):
        check_space(folder, size_of(bundle / "adapter"))
        write_vllm_adapter(folder, cfg, bundle, task.base_repo, task.revision)
        made = "The adapter as it was trained, and vLLM's command."
        return Form("vllm", VLLM, made, has_weights=False)
    log.info("merging")
    model = merged_model(task.source, task.dtype)
    if task.to is ExportTo.gguf:
        return _write_gguf(task, folder, model, tokenizer, expected)
    check_space(folder, weight_bytes(model, task.dtype.itemsize))
    write_merged(folder, model, cfg, bundle, tokenizer, expected.ends)
    made = _made(task, str(task.dtype).removeprefix("torch."))
    if task.to is ExportTo.vllm:
        write_merged_script(folder, cfg)
        return Form("vllm", VLLM, made)
    return Form("merged", MERGED, made)


def _write_gguf(task: Task, folder: Path, model: Any, tokenizer: Any, expected: Reference) -> Form:
    kind: GgufType = task.cfg.export.gguf_type
    check_space(folder, weight_bytes(model, gguf_file.BYTES[kind]))
    others = [end for end in expected.ends if end != tokenizer.eos_token_id]
    end = others[0] if others else tokenizer.eos_token_id
    file = folder / f"{task.cfg.name}-{kind.value}.gguf"
    gguf_file.write_gguf(file, model, tokenizer, end, kind, task.cfg.name)
    made = _made(task, kind.value)
    context = gguf_file.context_length(model.config)
    if context < model.config.max_position_embeddings:
        made += f" Texts of at most {context} tokens, its attention window."
    return Form("gguf", GGUF.replace("<file>", file.name), made)


def _made(task: Task, kind: str) -> str:
    has_adapter = (task.bundle / "adapter").is_dir()
    quantized = task.source.base.quantization is not None
    weights = "base model's de-quantised NF4 weights" if quantized else "base model's weights"
    return f"{'Adapter merged into the' if has_adapter else 'The'} {weights}, as {kind}."


def _measured(task: Task, folder: Path, expected: Reference) -> Measured:
    device = pick_device()
    if task.to is ExportTo.gguf:
        found = read_back.read_gguf(next(folder.glob("*.gguf")), task.source, device)
        reader = "transformers"
    elif (folder / "config.json").is_file():
        found, reader = read_back.read_merged(folder, task.source, device), "transformers"
    else:
        inside = folder / "adapter" if task.to is ExportTo.vllm else folder
        found, reader = read_back.read_adapter(inside, task.source, device), "peft"
    return measure(*found, expected, reader)


def _record(task: Task, form: Form, measured: Measured) -> dict[str, Any]:
    """export.json: from what it was made, and what was measured."""
    manifest = task.bundle / "manifest.json"
    is_local = not is_hub_id(task.cfg.model.name)
    return {
        "to": task.to.value,
        "made": form.made,
        "bundle_manifest_sha256": sha256(manifest),
        "base_model": {
            "name": task.base_repo or Path(task.cfg.model.name).name,
            "revision": task.revision,
            "fingerprint": json.loads(manifest.read_text())["base_model"]["fingerprint"],
        },
        "base_model_is_local": is_local,
        "measured": asdict(measured),
        "vllm": "not measured" if task.to is ExportTo.vllm else None,
        "versions": versions(),
    }
