"""A model card says what is known, leaves out what is not, and its front matter is YAML."""

import dataclasses

import pytest
import yaml

from effchal.config import Config, DataMixConfig, DataSourceConfig, LoraConfig, ModelConfig
from effchal.training.model_card import TrainingFacts, model_card

FACTS = TrainingFacts(
    status="finished",
    steps=40,
    steps_planned=40,
    weights="the last, of step 40",
    tokens=123456,
    target_tokens=4567,
    loss_before=2.5,
    loss_after=1.25,
    hours=0.5,
    peak_memory_gib=3.25,
    device="a GPU",
    command="effchal train lora.r=4",
    versions={"effchal": "1.2.3"},
    git_commit="abc123",
    base_model="some/model",
)
MIX = {
    "sha256": "f00d",
    "epochs": 1.5,
    "sources": [
        {"source": "web", "revision": "c0ffee", "kept": 1234, "share_tokens": 0.75},
        {"source": "own", "revision": None, "kept": 10, "share_tokens": 0.25},
    ],
}


@pytest.fixture
def cfg(tmp_path):
    own = tmp_path / "secret folder" / "a|b.jsonl"
    sources = {
        "web": DataSourceConfig(path="some/data", revision="c0ffee", license="CC BY 4.0"),
        "own": DataSourceConfig(path=str(own)),
    }
    model = ModelConfig(name="some/model", revision="123abc")
    mix = DataMixConfig(sources=sources)
    return Config(name="my run", model=model, data_mix=mix, lora=LoraConfig(r=4))


def front_matter(card):
    mark, text, body = card.split("---\n", 2)
    assert mark == ""
    return yaml.safe_load(text), body


def test_front_matter_names_base_model_library_and_data_of_the_hub(cfg):
    found, _ = front_matter(model_card(cfg, FACTS, MIX))
    assert found == {
        "base_model": "some/model",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "datasets": ["some/data"],
        "tags": ["effchal", "lora"],
    }


def test_what_nobody_stated_is_not_claimed(cfg):
    """No licence of the result, no language, no hub id of a base model in a folder."""
    cfg.model = ModelConfig(name="/home/me/models/mine")
    for source in cfg.data_mix.sources.values():
        source.license = "MIT"  # of the data, which says nothing of the adapter's
    facts = dataclasses.replace(FACTS, base_model=None, fingerprint="0123")
    found, body = front_matter(model_card(cfg, facts, MIX))
    assert not {"license", "license_name", "language", "base_model"} & set(found)
    assert "Nobody has stated one for this adapter" in body
    assert "the base model `mine`, with the fingerprint `0123`" in body
    assert "/home/me" not in body


def test_sources_stand_with_licence_origin_rows_and_share(cfg):
    card = model_card(cfg, FACTS, MIX)
    assert "| web | some/data | c0ffee | CC BY 4.0 | unknown | 1,234 | 75.0 % |" in card
    assert "| own | a\\|b.jsonl | - | unknown | unknown | 10 | 25.0 % |" in card
    assert "secret folder" not in card
    assert "SHA-256 of the mix: `f00d`" in card


def test_the_training_stands_as_it_was(cfg):
    card = model_card(cfg, FACTS, MIX)
    for row in (
        "| steps | 40 of 40 planned |",
        "| planned epochs | 1.5 |",
        "| tokens | 123,456, of them 4,567 to learn |",
        "| validation loss | 2.500 before, 1.250 after (nats per token) |",
        "| LoRA | r 4, alpha 16, dropout 0 |",
        "| LoRA on | q_proj, v_proj |",
        "| hours | 0.5 of 24 allowed |",
        "| peak memory | 3.25 GiB |",
        "| device | a GPU |",
        "| git commit | abc123 |",
        "| versions | effchal 1.2.3 |",
    ):
        assert row in card
    assert "```bash\neffchal train lora.r=4\n```" in card
    assert "vllm serve some/model --tokenizer <bundle>/tokenizer" in card
    assert "--max-lora-rank 8 " in card  # the lowest that vLLM takes
    assert "On benchmarks: not measured" in card


def test_what_vllm_does_not_serve_is_not_offered(cfg):
    cfg.lora = LoraConfig(r=600)
    assert "vllm" not in model_card(cfg, FACTS, MIX)
    cfg.lora = LoraConfig(r=4, use_dora=True)
    assert "vllm" not in model_card(cfg, FACTS, MIX)
    assert "| variant of LoRA | DoRA |" in model_card(cfg, FACTS, MIX)


def test_what_was_not_measured_is_no_number(cfg):
    facts = dataclasses.replace(
        FACTS, loss_before=None, loss_after=None, peak_memory_gib=None, git_commit=None, command=""
    )
    card = model_card(cfg, facts, {})
    assert "| validation loss | not measured before, not measured after" in card
    assert "| peak memory | not measured |" in card
    assert "| planned epochs | not measured |" in card
    assert (
        "| web | some/data | c0ffee | CC BY 4.0 | unknown | not measured | not measured |" in card
    )
    assert "The mix was not recorded." in card
    assert "| git commit | unknown |" in card
    assert "None" not in card


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("stopped_by_budget", "stopped by its budget, before all planned steps"),
        ("interrupted", "interrupted by a signal"),
        ("failed", "failed: a step gave numbers that are not finite"),
    ],
)
def test_a_run_that_did_not_finish_says_so(cfg, status, words):
    card = model_card(cfg, dataclasses.replace(FACTS, status=status, steps=12), MIX)
    assert f"| status | {words}" in card
    assert "| steps | 12 of 40 planned |" in card
    assert "It saw less training than was planned." in card
    assert "less training" not in model_card(cfg, FACTS, MIX)


def test_the_same_run_gives_the_same_card_whatever_its_name(cfg):
    assert model_card(cfg, FACTS, MIX) == model_card(cfg, FACTS, MIX)
    cfg.name = "a: b\n---\n# [x]"
    found, body = front_matter(model_card(cfg, FACTS, MIX))
    assert found["library_name"] == "peft"
    assert "# a: b --- # [x]\n" in body
