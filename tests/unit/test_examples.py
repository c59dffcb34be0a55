"""The plain examples compute what the package computes."""

import importlib.util
import json

import pytest
import torch
from support.examples import encode_example
from support.paths import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from effchal.config import DecodingConfig, LoraConfig, ModelConfig, PromptConfig, TrainConfig
from effchal.config.choices import DecodingMethod, Dtype
from effchal.decoding.layers import contrast_of
from effchal.decoding.sampling import SamplingParams
from effchal.mixing.example import Example
from effchal.mixing.packing import pack
from effchal.model.load import add_adapter, load_base_model
from effchal.model.tiny import tiny_folder
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder, Turn
from effchal.training.layers import prepare_training
from effchal.training.step import make_optimizer, train_step

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
STEPS, PER_STEP = 5, 4
CONVERSATIONS = ROOT / "effchal" / "mixing" / "quickstart" / "conversations.jsonl"


def example_file(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pairs():
    rows = [json.loads(line)["conversations"] for line in CONVERSATIONS.read_text().splitlines()]
    return [(question, answer) for question, answer, *_ in rows][: STEPS * PER_STEP]


def losses_of_the_package(pairs, template):
    encoder = PromptEncoder(load_tokenizer(TINY), PromptConfig(user=template.format("{content}")))
    encoded = [
        encode_example(
            Example(f"s:{i}", (Turn("user", question), Turn("assistant", answer))),
            encoder,
            TINY.max_seq_len,
        )
        for i, (question, answer) in enumerate(pairs)
    ]
    base = load_base_model(TINY, torch.device("cpu"))
    model = add_adapter(base, LoraConfig(r=16, alpha=16), seed=0)
    cfg = TrainConfig(lr=1e-2)
    prepare_training(model, cfg.activation_checkpointing)
    optimizer = make_optimizer(model, cfg)
    model.train()
    losses = []
    for step in range(STEPS):
        chosen = encoded[step * PER_STEP : (step + 1) * PER_STEP]
        micro_batches = pack(chosen, TINY.max_seq_len, packing=True)
        losses.append(train_step(model, optimizer, micro_batches, cfg.max_grad_norm).loss)
    return [example.ids.tolist() for example in encoded], losses


def test_minimal_loop_has_the_losses_of_the_package(pairs):
    minimal = example_file("minimal_loop")
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    examples = [minimal.encode(tokenizer, *pair) for pair in pairs]
    ids, expected = losses_of_the_package(pairs, minimal.TEMPLATE)
    assert [example[0] for example in examples] == ids
    losses = minimal.train(tiny_folder(), examples, STEPS, PER_STEP)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert losses[-1] < losses[0] - 0.05  # the steps did learn something


def test_minimal_dola_has_the_tokens_of_the_package(tiny_engine):
    minimal = example_file("minimal_dola")
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float32).eval()
    end_id = tiny_engine.tokenizer.eos_token_id
    dola = DecodingConfig(method=DecodingMethod.dola, premature_layers=[0, 1])
    contrast = contrast_of(dola, num_layers=2, tied=False)
    differs_from_greedy = 0
    for prompt in ("The capital of France is", "2 + 2 =", "Write a poem", "Once upon a time"):
        ids = tiny_engine.tokenizer(prompt).input_ids
        found = minimal.generate(model, ids, (0, 1), 24, end_id=end_id)
        params = SamplingParams(max_new_tokens=24, contrast=contrast)
        assert found == tiny_engine.complete(ids, params).ids
        greedy = tiny_engine.complete(ids, SamplingParams(max_new_tokens=24)).ids
        differs_from_greedy += found != greedy
    assert differs_from_greedy  # or the contrast would not be tested


@pytest.mark.parametrize("name", ["minimal_loop", "minimal_dola"])
def test_examples_are_plain(name):
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert "effchal" not in text
    assert len(text.splitlines()) <= 90
