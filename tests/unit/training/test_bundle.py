import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors
import torch
from huggingface_hub import constants
from support.adapted_models import fill_adapter

from effchal.bundle import (
    CARD,
    BundleError,
    base_of_bundle,
    check_bundle,
    load_bundle_model,
    load_bundle_tokenizer,
    replace_text,
    write_bundle,
)
from effchal.config import Config, LoraConfig, ModelConfig, load_config
from effchal.config.choices import Dtype
from effchal.kernels.attention import packed_hidden_states
from effchal.model.load import add_adapter, base_model_fingerprint, load_base_model
from effchal.model.tokenizer import base_model_path, load_tokenizer

CPU = torch.device("cpu")
COMMIT = "0123456789" * 4
CFG = Config(model=ModelConfig(name="builtin:tiny", dtype=Dtype.float32), lora=LoraConfig(r=4))


def load_bundle(folder, base_model, device):
    base = base_of_bundle(folder, base_model)
    return load_bundle_model(folder, base, device), load_bundle_tokenizer(folder, base)


IDS, POSITIONS = torch.arange(1, 21)[None], torch.arange(20)[None]


@pytest.fixture
def bundle(tmp_path):
    model = add_adapter(load_base_model(CFG.model, CPU), CFG.lora, seed=0)
    fill_adapter(model, std=1.0)
    write_bundle(tmp_path / "bundle", CFG, model, load_tokenizer(CFG.model))
    with torch.no_grad():
        return tmp_path / "bundle", packed_hidden_states(model, IDS, POSITIONS, (20,))


def test_what_is_loaded_computes_what_was_trained(bundle):
    folder, expected = bundle
    model, tokenizer = load_bundle(folder, None, CPU)
    with torch.no_grad():
        assert torch.equal(packed_hidden_states(model, IDS, POSITIONS, (20,)), expected)
    assert tokenizer("hi").input_ids == load_tokenizer(CFG.model)("hi").input_ids
    assert load_config(folder / "config.yaml") == CFG


def test_a_bundle_trained_on_a_hub_id_takes_no_other_base_model(tmp_path, monkeypatch):
    tiny, other = Path(base_model_path(CFG.model)), tmp_path / "other"
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cfg = dataclasses.replace(
        CFG, model=dataclasses.replace(CFG.model, name="org/tiny", revision=COMMIT)
    )
    snapshot.mkdir(parents=True)
    shutil.copy(tiny / "config.json", snapshot)
    assert base_model_fingerprint(cfg.model) is None  # its weights have not come yet
    shutil.copytree(tiny, snapshot, dirs_exist_ok=True)
    model = add_adapter(load_base_model(cfg.model, CPU), cfg.lora, seed=0)
    write_bundle(tmp_path / "bundle", cfg, model, load_tokenizer(cfg.model))
    for base_model in (None, str(tiny)):
        load_bundle(tmp_path / "bundle", base_model, CPU)
    shutil.copytree(tiny, other)
    change_last_byte(other / "model.safetensors")
    with pytest.raises(BundleError, match=r"other is not the base model of .*, which is org/tiny"):
        base_of_bundle(tmp_path / "bundle", str(other))
    # It was not there when it was checked, and is loaded all the same.
    change_last_byte(snapshot / "model.safetensors")
    with pytest.raises(BundleError, match="org/tiny is not the base model"):
        load_bundle_model(tmp_path / "bundle", cfg.model, CPU)


def change_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_manifest_lists_every_file_and_versions(bundle):
    folder, _ = bundle
    manifest = check_bundle(folder)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) | {"manifest.json"} == there
    assert {"effchal", "torch", "transformers", "peft"} <= set(manifest["versions"])
    assert manifest["base_model"]["name"] == "builtin:tiny"
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.rglob("*") if path.is_file())


def test_a_changed_byte_a_missing_and_a_foreign_file_are_named(bundle):
    folder, _ = bundle
    weights = folder / "adapter" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"adapter_model\.safetensors has changed since"):
        load_bundle(folder, None, CPU)
    weights.unlink()
    with pytest.raises(BundleError, match=r"adapter_model\.safetensors is missing"):
        check_bundle(folder)
    weights.write_bytes(whole)
    (folder / "adapter" / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(BundleError, match=r"adapter_model\.bin is not in the manifest; remove it"):
        check_bundle(folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        check_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="is not a manifest"):
        check_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99, "files": {}}))
    with pytest.raises(BundleError, match="has format 99; this version reads 1"):
        check_bundle(tmp_path)


def test_the_librarys_empty_model_card_is_left_out(bundle):
    folder, _ = bundle
    assert not (folder / "adapter" / "README.md").exists()


def test_a_card_is_replaced_and_the_files_of_before_keep_theirs(bundle, tmp_path, monkeypatch):
    folder, _ = bundle
    replace_text(folder, CARD, "# one\n")
    digest = check_bundle(folder)["files"]["adapter/README.md"]
    shutil.copytree(folder, tmp_path / "copy", copy_function=os.link)
    replace_text(folder, CARD, "# two\n")
    assert check_bundle(folder)["files"]["adapter/README.md"] != digest
    assert (folder / "adapter" / "README.md").read_text() == "# two\n"
    assert (tmp_path / "copy" / "adapter" / "README.md").read_text() == "# one\n"
    check_bundle(tmp_path / "copy")
    monkeypatch.setattr(os, "link", _no_links)  # a file system without links
    replace_text(folder, CARD, "# three\n")
    check_bundle(folder)


def _no_links(*_):
    raise OSError(1, "Operation not permitted")


def test_another_base_model_is_refused_and_a_moved_one_is_found(bundle, tmp_path):
    folder, _ = bundle
    moved = tmp_path / "moved"
    shutil.copytree(base_model_path(CFG.model), moved)
    load_bundle(folder, str(moved), CPU)
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    with pytest.raises(
        BundleError, match=r"moved is not the base model of .*, which is builtin:tiny"
    ):
        load_bundle(folder, str(moved), CPU)


def test_a_bundle_without_adapter_is_the_base_model(tmp_path):
    write_bundle(
        tmp_path / "bundle", dataclasses.replace(CFG, lora=None), None, load_tokenizer(CFG.model)
    )
    model, _ = load_bundle(tmp_path / "bundle", None, CPU)
    with torch.no_grad():
        expected = packed_hidden_states(load_base_model(CFG.model, CPU), IDS, POSITIONS, (20,))
        assert torch.equal(packed_hidden_states(model, IDS, POSITIONS, (20,)), expected)


def test_writing_again_replaces_the_bundle_whole(bundle):
    folder, _ = bundle
    write_bundle(folder, dataclasses.replace(CFG, lora=None), None, load_tokenizer(CFG.model))
    assert not (folder / "adapter").exists()
    check_bundle(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_base_model_that_is_elsewhere_is_asked_for(tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(base_model_path(CFG.model), gone)
    cfg = dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, name=str(gone)), lora=None)
    write_bundle(tmp_path / "bundle", cfg, None, load_tokenizer(cfg.model))
    gone.rename(tmp_path / "moved")
    with pytest.raises(
        BundleError, match=r"base model of .* is not here: no .*gone; give base_model=<folder>"
    ):
        load_bundle(tmp_path / "bundle", None, CPU)
    load_bundle(tmp_path / "bundle", str(tmp_path / "moved"), CPU)


def test_an_adapter_on_the_head_comes_back_and_brings_no_base_weights(tmp_path):
    cfg = dataclasses.replace(CFG, lora=LoraConfig(r=4, target_modules=["q_proj", "lm_head"]))
    model = add_adapter(load_base_model(cfg.model, CPU), cfg.lora, seed=0)
    fill_adapter(model, std=1.0)
    write_bundle(tmp_path / "bundle", cfg, model, load_tokenizer(cfg.model))
    loaded, _ = load_bundle(tmp_path / "bundle", None, CPU)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    size = (tmp_path / "bundle" / "adapter" / "adapter_model.safetensors").stat().st_size
    adapter_bytes = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    assert size < adapter_bytes + 4096


def test_every_user_may_read_a_bundle_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        write_bundle(tmp_path / "bundle", CFG, None, load_tokenizer(CFG.model))
    finally:
        os.umask(before)
    for path in (tmp_path / "bundle", *(tmp_path / "bundle").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_bundle_that_cannot_be_written_leaves_the_one_before(bundle, monkeypatch):
    folder, _ = bundle
    model = load_bundle(folder, None, CPU)[0]

    def full(*_, **__):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bundle(folder, CFG, model, load_tokenizer(CFG.model))
    assert (caught.value.errno, caught.value.filename) == (28, str(folder))
    check_bundle(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
