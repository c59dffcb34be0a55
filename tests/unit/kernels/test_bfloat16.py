"""Decoding with bfloat16 weights, on a CPU with arithmetic for them and on one without."""

import pytest
import torch
from support.adapted_models import fill_adapter
from support.random_models import CPU, check_paths_agree, decoded_states, random_model

from effchal.config import LoraConfig, ModelConfig
from effchal.config.choices import Dtype, Quantization
from effchal.decoding.contrast import Dola, Greedy
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.taps import TappedModel
from effchal.kernels.cpu_linear import PackedLinear
from effchal.model.load import add_adapter, load_base_model
from effchal.model.tokenizer import load_tokenizer

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.bfloat16)


@pytest.fixture(params=[True, False], ids=["bf16 arithmetic", "none"])
def able(request, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": request.param})
    return request.param


def test_states_are_those_of_the_library_and_slow_decoding_is_said(able, caplog):
    model = random_model("Llama", {}, torch.bfloat16)
    check_paths_agree(model, tolerance=2e-2)
    caplog.clear()
    assert decoded_states(TappedModel(model), [3]).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert len(caplog.records) == (0 if able else 1)
    assert able or "model.dtype=auto" in caplog.text


def test_layers_that_are_not_known_are_decoded_too(able):
    for name, changes in (
        ("Mixtral", {"num_local_experts": 2}),
        ("GPTNeoX", {"num_key_value_heads": None}),
    ):
        model = random_model(name, changes, torch.bfloat16)
        states = decoded_states(TappedModel(model), [3, 4])
        assert states.dtype == torch.bfloat16
        assert torch.isfinite(states).all()


def test_answers_and_scores_are_near_those_of_float32(able):
    tokenizer = load_tokenizer(TINY)
    models = load_base_model(TINY, CPU), load_base_model(TINY, CPU).float()
    engines = [Engine(model, tokenizer) for model in models]
    ids = tokenizer("Count to five: one, two,").input_ids
    variants = [
        SamplingParams(max_new_tokens=1, contrast=contrast, echo_from=0)
        for contrast in (Greedy(), Dola((0, 1)))
    ]
    answers = [next(engine.generate([ids], [variants], 1)) for engine in engines]
    for ours, theirs in zip(*answers, strict=True):
        assert len(ours.tokens) >= len(ids)
        for a, b in zip(ours.tokens[: len(ids)], theirs.tokens, strict=False):
            assert a.base_logprob == pytest.approx(b.base_logprob, abs=0.1)
    scores = [
        Scorer(engine.model).score(ids, [ids[:3], ids[2:7]], [Greedy()])[0].logprobs
        for engine in engines
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.3)


def test_nf4_is_multiplied_in_the_dtype_asked_for(able):
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.bfloat16, quantization=Quantization.nf4)
    rounded = decoded_states(TappedModel(load_base_model(cfg, CPU)), [3, 4])
    cfg.dtype = Dtype.float32
    exact = decoded_states(TappedModel(load_base_model(cfg, CPU)), [3, 4])
    assert (rounded.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    assert (rounded - exact).norm() <= 5e-2 * exact.norm()


@torch.inference_mode()
def test_an_adapter_is_multiplied_in_the_dtype_of_the_weights(able):
    lora = LoraConfig(r=4, target_modules=["q_proj", "up_proj", "lm_head"])
    model = add_adapter(load_base_model(TINY, CPU), lora, seed=0).eval()
    fill_adapter(model, std=0.3)
    check_paths_agree(model, tolerance=2e-2)
    a, _ = TappedModel(model)._fused._layers[0].qkv._adapters["default"]
    assert a.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for name, p in model.named_parameters() if "lora_" in name)


def test_bfloat16_weights_are_not_packed(able):
    layer = torch.nn.Linear(64, 700, bias=False).requires_grad_(False).to(torch.bfloat16)
    assert not PackedLinear.suits(layer)
