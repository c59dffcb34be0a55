"""Decoding with bfloat16 weights, on a CPU with arithmetic for them and on one without."""

import pytest
import torch
from support.random_models import CPU, MODELS, TAPS, check_paths_agree, decoded_states, random_model

from effchal.config import LoraConfig, ModelConfig
from effchal.config.choices import Dtype, Quantization
from effchal.decoding.engine import Engine
from effchal.decoding.kv_cache import RowCache
from effchal.decoding.layers import Dola
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.kernels.cpu_linear import PackedLinear
from effchal.model.load import add_adapter, load_base_model, load_tokenizer


def can_multiply_bfloat16(able, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})


def test_in_bfloat16_too(monkeypatch):
    can_multiply_bfloat16(True, monkeypatch)
    model = random_model("Llama", {}, torch.bfloat16)
    check_paths_agree(model, tolerance=2e-2)
    assert decoded_states(TappedModel(model), [3]).dtype == torch.bfloat16


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(
    ("name", "changes"),
    [*MODELS.values(), ("GPTNeoX", {"num_key_value_heads": None})],
    ids=[*MODELS, "gpt-neox, layers not known, norms with biases"],
)
@torch.inference_mode()
def test_bfloat16_weights_are_widened_where_the_cpu_has_no_arithmetic_for_them(
    name, changes, pieces, monkeypatch
):
    if pieces:
        monkeypatch.setattr("effchal.kernels.cpu_linear.WIDENED_AT_ONCE", 1)
        monkeypatch.setattr(
            "effchal.kernels.cpu_linear.FEWEST_OUT", 70
        )  # the last piece is a smaller one
    can_multiply_bfloat16(False, monkeypatch)
    narrow = random_model(name, changes, torch.bfloat16)
    wide = random_model(name, changes, torch.bfloat16).float()
    large = {name for name, parameter in narrow.named_parameters() if parameter.ndim == 2}
    tapped, expected = TappedModel(narrow), TappedModel(wide)
    assert tapped.dtype == torch.float32
    if tapped._step is not None:
        assert (len(tapped._step._layers[0].gate_up._product._pieces) > 1) is pieces
    assert {
        name for name, parameter in narrow.named_parameters() if parameter.dtype == torch.bfloat16
    } == large
    for lengths in ([5], [2, 9, 5]):
        found = decoded_states(tapped, lengths)
        assert_same(found, decoded_states(expected, lengths))
        assert_same(tapped.head(found[-1]), expected.head(found[-1]))
    ids, at, states = (
        torch.arange(400)[None] % 300,
        torch.tensor([7, 399]),
        [],
    )  # more than a short step takes
    for each in (tapped, expected):
        cache = RowCache()
        cache.add_row()
        states.append(each.extend([NewTokens(cache, 0, ids)], TAPS, at))
    assert_same(*states)


def assert_same(found, expected):
    assert found.dtype == expected.dtype == torch.float32
    assert (found - expected).norm() <= 2e-6 * expected.norm()


def test_a_model_with_large_weights_elsewhere_is_left_alone(monkeypatch):
    can_multiply_bfloat16(False, monkeypatch)
    model = random_model("Mixtral", {"num_local_experts": 2}, torch.bfloat16)
    tapped = TappedModel(model)
    assert tapped.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.isfinite(decoded_states(tapped, [3, 4])).all()


def test_answers_and_scores_are_those_of_float32(monkeypatch):
    can_multiply_bfloat16(False, monkeypatch)
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.bfloat16)
    tokenizer = load_tokenizer(cfg)
    models = load_base_model(cfg, CPU), load_base_model(cfg, CPU).float()
    engines = [Engine(model, tokenizer) for model in models]
    ids = tokenizer("Count to five: one, two,").input_ids
    ways = [
        SamplingParams(max_new_tokens=12, contrast=contrast, echo_from=0)
        for contrast in (None, Dola((0, 1)))
    ]
    found, expected = (next(engine.generate([ids], [ways], 1)) for engine in engines)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.ids == theirs.ids
        assert len(ours.tokens) > len(ids)
        assert all(
            abs(a.logprob - b.logprob) < 1e-4
            for a, b in zip(ours.tokens, theirs.tokens, strict=True)
        )
    scores = [
        Scorer(engine.model).score(ids, [ids[:3], ids[2:7]], [None])[0].logprobs
        for engine in engines
    ]
    assert all(abs(ours - theirs) < 1e-4 for ours, theirs in zip(*scores, strict=True))


def test_nf4_is_multiplied_in_float32_too(monkeypatch):
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.bfloat16, quantization=Quantization.nf4)
    can_multiply_bfloat16(True, monkeypatch)
    rounded = decoded_states(TappedModel(load_base_model(cfg, CPU)), [3, 4])
    can_multiply_bfloat16(False, monkeypatch)
    tapped = TappedModel(load_base_model(cfg, CPU))
    packed = [
        module for module in tapped.backbone.modules() if type(module).__name__ == "Linear4bit"
    ]
    assert {module.compute_dtype for module in packed} == {torch.float32}
    found = decoded_states(tapped, [3, 4])
    assert (rounded.dtype, found.dtype) == (torch.bfloat16, torch.float32)
    assert (found - rounded).norm() <= 2e-2 * found.norm()


def test_what_was_decoded_first_leaves_nothing_that_only_inference_mode_may_write(monkeypatch):
    can_multiply_bfloat16(False, monkeypatch)
    model = random_model("Llama", {}, torch.bfloat16)
    decoded_states(TappedModel(model), [3])
    ids = torch.arange(400)[None] % 300  # through the library's layers
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
    with torch.no_grad():
        assert_same(model(input_ids=ids).logits, expected)


@pytest.mark.parametrize("able", [True, False])
@torch.inference_mode()
def test_an_adapter_is_multiplied_in_the_dtype_of_the_step(able, monkeypatch):
    can_multiply_bfloat16(able, monkeypatch)
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.bfloat16)
    lora = LoraConfig(r=4, target_modules=["q_proj", "up_proj", "lm_head"])
    model = add_adapter(load_base_model(cfg, CPU), lora, seed=0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    check_paths_agree(model, tolerance=2e-2 if able else 2e-5)
    joint = TappedModel(model)._step._layers[0].qkv
    assert joint._a.dtype == (torch.bfloat16 if able else torch.float32)
    assert all(p.dtype == torch.float32 for name, p in model.named_parameters() if "lora_" in name)


def test_bfloat16_is_packed_where_the_cpu_has_no_arithmetic_for_it(monkeypatch):
    layer = torch.nn.Linear(64, 700, bias=False).requires_grad_(False).to(torch.bfloat16)
    can_multiply_bfloat16(True, monkeypatch)
    assert not PackedLinear.suits(layer)
    can_multiply_bfloat16(False, monkeypatch)
    assert PackedLinear.suits(layer)
