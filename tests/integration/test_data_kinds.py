"""Each kind of data, from the line that declares it to the served bundle."""

import functools
import subprocess
import sys

import pytest
from support.chat_tokenizers import chat_tokenizer
from support.data_kind_runs import STEPS, train_and_serve
from support.data_kinds import ASKED, KINDS, declared
from support.paths import ROOT
from support.random_models import random_model

import effchal
from effchal.mixing.prepare import select_data

MAKERS = {  # small models of their architectures
    "llama3": ("Llama", {}),
    "mistral": ("Mistral", {}),
    "qwen25": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "gemma2": ("Gemma2", {"head_dim": 16}),
    "phi3": ("Phi3", {}),
}

REFUSALS = """
import sys, tempfile
from pathlib import Path
from support.data_kind_runs import refusal
from support.data_kinds import KINDS
for name, kind in KINDS.items():
    with tempfile.TemporaryDirectory() as folder:
        print("\\n" + name, *refusal(kind, Path(folder)), sep="\\t", end="\\t")
print(*({"torch", "transformers"} & sys.modules.keys()))
"""


# Kinds that differ in their files alone: read here, trained on by benchmarks/data_kinds.py.
FILES = [name for name, kind in KINDS.items() if kind.words[0] != "data=mine.jsonl"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_what_it_holds(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    KINDS[name].write()
    (chosen,) = select_data(effchal.load_config(list(KINDS[name].words))).sources
    turns = chosen.source.example(0).turns
    assert [(turn.role, turn.content) for turn in turns] == KINDS[name].talk


@pytest.mark.parametrize("name", [name for name in KINDS if name not in FILES[1:]])
def test_it_is_trained_on_and_served_with_the_same_template(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # no picture, which takes longer than all
    kind = KINDS[name]
    found = train_and_serve(kind, tmp_path)
    assert (found.record["status"], found.record["step"]) == ("finished", STEPS)
    assert found.record["data_sha256"] == found.data_sha256
    assert len(found.prompts) == max(1, [role for role, _ in kind.talk].count("assistant"))
    assert found.same
    assert found.learned == kind.targets


@pytest.mark.parametrize("maker", MAKERS)
def test_a_makers_template_is_the_same_in_training_and_serving(tmp_path, monkeypatch, maker):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    name, keys = MAKERS[maker]
    tokenizer = chat_tokenizer(maker)
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": None, "bos_token_id": None}
    model = random_model(name, {"vocab_size": len(tokenizer)} | tokens | keys)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    words = [f"model.name={tmp_path / 'base'}", "prompt=auto", "lora.target_modules=all-linear"]
    found = train_and_serve(KINDS["`prompt_completion` of messages"], tmp_path, *words)
    assert (found.record["status"], found.record["step"]) == ("finished", STEPS)
    messages = [{"role": role, "content": text} for role, text in ASKED]
    theirs = functools.partial(
        tokenizer.apply_chat_template, return_dict=False, date_string="26 Jul 2024"
    )
    assert found.ids == theirs(messages)
    assert found.prompts == [theirs(messages[:1], add_generation_prompt=True)]
    assert found.same


def test_each_wrong_version_is_told_in_time_and_without_torch():
    paths = [str(ROOT), str(ROOT / "tests")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{REFUSALS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines() if line]
    assert [name for name, *_ in lines] == list(KINDS)
    for name, message, seconds, _ in lines:
        assert KINDS[name].message in message
        assert float(seconds) < 2
    assert lines[-1][-1] == ""  # nothing heavy was imported


def test_the_table_of_the_documents_is_what_the_command_prints():
    assert "\n".join(declared()) in (ROOT / "docs" / "data.md").read_text()
