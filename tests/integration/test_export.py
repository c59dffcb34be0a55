"""effchal export: each form answers as the bundle's engine does, or nothing is written."""

import functools
import json
import re
import subprocess
from collections import namedtuple
from dataclasses import replace

import peft
import pytest
import transformers
from support.exports import CPU, export_config, save_base, save_bundle, source_of

from effchal.bundle import CARD, replace_text
from effchal.config import ConfigError
from effchal.config.choices import ExportTo, GgufType, WeightType
from effchal.decoding.sampling import SamplingParams
from effchal.exporting import folder as export_folder
from effchal.exporting import measure
from effchal.exporting.hub import UploadError
from effchal.exporting.read_back import read_gguf
from effchal.exporting.run import checked, export
from effchal.exporting.vllm import write_vllm_adapter
from effchal.model.load import load_base_model
from effchal.model_source import load_engine

OLD_CARD = """---
library_name: peft
tags:
- lora
---

# tuned

A LoRA adapter for it.

## Use

Old.

## Limits

Some.
"""
QUESTION = [{"role": "user", "content": "Why?"}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    words = ["prompt.user='Q: {content} A:'"]
    folder = save_bundle(tmp_path_factory.mktemp("bundles") / "tuned", *words, r=4)
    replace_text(folder, CARD, OLD_CARD)
    return folder


@pytest.fixture(scope="module")
def engine(bundle):
    return load_engine(source_of(bundle))


@pytest.fixture(autouse=True, scope="module")
def _short_answers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "NEW_TOKENS", 8)
        yield


@pytest.fixture(scope="module")
def exported(bundle, tmp_path_factory):
    """The folder of each form, written once."""

    @functools.cache
    def make(form):
        keys = {"to": ExportTo(form), "gguf_type": GgufType.f32, "base_repo": "some/base"}
        return run(bundle, tmp_path_factory.mktemp("exports") / "a b", **keys)

    return make


def run(bundle, folder, **keys):
    return export(export_config(bundle, folder=str(folder), **keys), folder.parent)


def read(folder, bundle, form):
    """As a user of the other program loads it."""
    if form == "gguf":
        return read_gguf(next(folder.glob("*.gguf")), source_of(bundle), CPU)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if form == "adapter":
        base = load_base_model(source_of(bundle).base, CPU)
        return peft.PeftModel.from_pretrained(base, folder), tokenizer
    return transformers.AutoModelForCausalLM.from_pretrained(folder), tokenizer


@pytest.mark.parametrize("form", ["merged", "adapter", "gguf"])
def test_another_program_gives_the_engines_greedy_tokens(bundle, engine, exported, form):
    folder = exported(form)
    model, tokenizer = read(folder, bundle, form)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert prompt == "Q: Why? A:"
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    found = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    assert found == engine.complete(ids[0].tolist(), SamplingParams(max_new_tokens=12)).ids
    record = json.loads((folder / "export.json").read_text())["measured"]
    assert record["same_tokens"] == record["tokens"] > 0
    assert record["same_prompts"] == record["prompts"] == 4
    assert record["nats_max"] < 1e-4
    assert [each.name for each in folder.parent.iterdir()] == ["a b"]


def test_a_merged_folder_has_end_tokens_card_and_no_path_of_this_machine(exported):
    folder = exported("merged")
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [256]
    card = (folder / "README.md").read_text()
    assert "base_model: some/base" in card
    assert "library_name: transformers" in card
    assert "A LoRA adapter merged into it." in card
    assert "Old." not in card
    assert re.search(r"## Use\n.*## Export\n.*greedy tokens the same.*## Limits", card, re.DOTALL)
    for path in folder.glob("*.*"):
        if path.suffix in (".json", ".md", ".jinja"):
            assert "/tmp" not in path.read_text(), path
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())


def test_an_adapter_names_the_base_model_on_the_hub(exported):
    folder = exported("adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/base", None)
    assert "base_model_relation: adapter" in (folder / "README.md").read_text()


VLLM = '#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n'


def vllm_arguments(folder, tmp_path, **variables):
    """What the script of an export gives to a `vllm` that only prints its arguments."""
    stand_in = tmp_path / "bin" / "vllm"
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text(VLLM)
    stand_in.chmod(0o755)
    env = {"PATH": f"{stand_in.parent}:/usr/bin:/bin"} | variables
    command = ["sh", folder / "serve.sh", "--port", "8001"]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_vllm_gets_an_adapter_on_its_base(exported, bundle, tmp_path):
    folder = exported("vllm")
    words = vllm_arguments(folder, tmp_path).stdout.splitlines()
    assert words[:4] == ["serve", "some/base", "--tokenizer", "./tokenizer"]
    assert words[words.index("--max-lora-rank") + 1] == "8"
    assert "tuned=./adapter" in words
    assert '{"temperature": 0}' in words
    assert words[-2:] == ["--port", "8001"]
    for option in ("--tokenizer", "--chat-template", "--generation-config"):
        assert (folder / words[words.index(option) + 1]).exists()
    assert "not yet measured" in (folder / "README.md").read_text()
    write_vllm_adapter(tmp_path / "local", export_config(bundle), bundle, None, None)
    assert (
        "give the folder of the base model" in vllm_arguments(tmp_path / "local", tmp_path).stderr
    )
    found = vllm_arguments(tmp_path / "local", tmp_path, BASE_MODEL="/a b").stdout.splitlines()
    assert found[1] == "/a b"


def test_what_vllm_cannot_keep_apart_is_merged(tmp_path):
    bundle = save_bundle(tmp_path / "dora", "decoding=sample", use_dora=True)
    folder = run(bundle, tmp_path / "out", to=ExportTo.vllm)
    words = vllm_arguments(folder, tmp_path).stdout.splitlines()
    assert words[:2] == ["serve", "."]
    assert not {"--enable-lora", "--override-generation-config"} & set(words)
    assert (folder / "model.safetensors").is_file()
    assert json.loads((folder / "generation_config.json").read_text())["do_sample"]


def test_a_plain_base_model_and_nf4_weights_are_exported(tmp_path):
    plain = save_bundle(tmp_path / "plain", "model.quantization=nf4")
    folder = run(plain, tmp_path / "out", weights=WeightType.bfloat16)
    record = json.loads((folder / "export.json").read_text())
    assert record["made"] == "The base model's de-quantised NF4 weights, as bfloat16."
    assert 0 < record["measured"]["nats_mean"] < 0.1
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    with pytest.raises(ConfigError, match="is a plain base model without an adapter; give to=mer"):
        run(plain, tmp_path / "adapter", to=ExportTo.adapter)


def test_refusals_come_before_weights_are_read(bundle, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ConfigError, match="full holds something already; give another folder"):
        run(bundle, tmp_path / "full")
    with pytest.raises(ConfigError, match="mine is a file; give another folder"):
        run(bundle, tmp_path / "full" / "mine")
    with pytest.raises(ConfigError, match=r"lies in the bundle .*, which must not change"):
        run(bundle, bundle / "out")
    with pytest.raises(ConfigError, match="export takes a run folder or a bundle"):
        checked(replace(export_config(bundle), bundle=None))  # base:<run>
    with pytest.raises(ConfigError, match=r"export\.push_to_hub must be <owner>/<name> of the hub"):
        export_config(bundle, push_to_hub="name")
    gemma = save_base(tmp_path / "gemma", "Gemma")
    gemma = save_bundle(tmp_path / "of_gemma", base=gemma, r=4)
    with pytest.raises(ConfigError, match="and this model is a gemma; give to=merged"):
        run(gemma, tmp_path / "out", to=ExportTo.gguf)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_this_machine_is_no_base_model_for_the_hub(bundle, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    keys = {"to": ExportTo.adapter, "push_to_hub": "me/x"}
    with pytest.raises(ConfigError, match=r"builtin:tiny is a folder of this machine.*base_repo="):
        checked(export_config(bundle, **keys))
    checked(export_config(bundle, **keys, base_repo="some/base"))


def test_a_failed_upload_leaves_the_folder(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # the client itself was imported offline
    with pytest.raises(UploadError, match=f"hf upload me/x {tmp_path / 'out'}"):
        run(bundle, tmp_path / "out", push_to_hub="me/x")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_disk_without_space_is_refused_and_nothing_is_left(bundle, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(export_folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"needs 0\.00 GiB, and .* has 0\.00 GiB; make room"):
        run(bundle, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_no_export(bundle, tmp_path, monkeypatch):
    """Had the merge left the adapter out, the answers would tell."""
    plain = save_bundle(tmp_path / "plain")
    base = load_base_model(source_of(plain).base, CPU)
    monkeypatch.setattr("effchal.exporting.run.merged_model", lambda *_: base)
    with pytest.raises(ConfigError, match="the export answers otherwise than the bundle: log-prob"):
        run(bundle, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["plain"]


def test_a_template_that_spells_other_prompts_is_refused():
    found = measure.Measured("x", 4, 3, 10, 10, 0.0, 0.0)
    with pytest.raises(ConfigError, match="spells 1 of 4 prompts otherwise"):
        measure.check(found)
    with pytest.raises(ConfigError, match="answers otherwise"):
        measure.check(measure.Measured("x", 4, 4, 10, 0, float("nan"), 0.0))
