"""The fast decode step against the model's own forward pass, on each architecture it knows."""

import pytest
import torch
from support.adapted_models import fill_adapter
from support.paths import needs_smollm2
from support.random_models import CPU, MODELS, TAPS, check_paths_agree, decoded_states, random_model

from effchal.config import LoraConfig, ModelConfig
from effchal.config.choices import Dtype, Quantization
from effchal.decoding.kv_cache import RowCache
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.kernels.cpu_linear import PackedLinear, TiledLinear
from effchal.kernels.frozen_weight import side_by_side
from effchal.kernels.layer_parts import parts_of
from effchal.kernels.lora_linear import decoding_linear
from effchal.kernels.row_adapters import RowAdapters
from effchal.kernels.scratch import ScratchBuffers
from effchal.kernels.shared_prefix import attention_with_shared_prefix
from effchal.model.load import add_adapter, load_base_model


@pytest.mark.parametrize("shared", [0, 7])
@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_a_prompt_beside_rows_of_another_cache_changes_neither(name, shared, monkeypatch):
    monkeypatch.setattr("effchal.kernels.shared_prefix.WORTH_SHARING", 7)
    tapped = TappedModel(random_model(*MODELS[name]))
    taps = tuple(tap for tap in TAPS if tap[0] < tapped.num_layers)
    draw = torch.Generator().manual_seed(2)
    beginning = torch.randint(tapped.vocabulary, (1, 7), generator=draw)
    own = [torch.randint(tapped.vocabulary, (1, length), generator=draw) for length in (2, 5, 20)]
    next_ids = torch.randint(tapped.vocabulary, (2, 1), generator=draw)

    def caches():
        rows, prompt = RowCache(), RowCache()
        for ids in own[:2]:
            ids = torch.cat([beginning, ids], dim=1)
            tapped.extend([NewTokens(rows, rows.add_row(), ids)], (), torch.tensor([0]))
        tapped.extend([NewTokens(prompt, prompt.add_row(), beginning)], (), torch.tensor([0]))
        return rows, prompt

    def states(*new, at):
        return tapped.extend(list(new), taps, torch.tensor(at))

    rows, prompt = caches()
    together = states(
        NewTokens(rows, 0, next_ids, shared), NewTokens(prompt, 0, own[2]), at=[0, 1, 21]
    )
    number = rows.add_row()
    rows.copy_row(number, prompt, 0)
    after = states(NewTokens(rows, 0, torch.tensor([[1], [2], [3]])), at=[0, 1, 2])
    tapped._fused = None  # the library's own layers
    rows, prompt = caches()
    apart = torch.cat(
        [
            states(NewTokens(rows, 0, next_ids), at=[0, 1]),
            states(NewTokens(prompt, 0, own[2]), at=[19]),
        ],
        1,
    )
    rows.fill(rows.add_row(), [prompt.block(0, 0, 27)])
    expected = states(NewTokens(rows, 0, torch.tensor([[1], [2], [3]])), at=[0, 1, 2])
    for found, wanted in ((together, apart), (after, expected)):
        assert (found - wanted).norm() <= 2e-5 * wanted.norm()


@pytest.mark.parametrize("name", MODELS)
def test_the_fast_step_gives_the_states_of_the_models_own(name):
    check_paths_agree(random_model(*MODELS[name]))


@pytest.mark.parametrize("name", MODELS)
def test_what_rows_share_is_read_once_with_the_same_result(name, monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return attention_with_shared_prefix(*args)

    monkeypatch.setattr("effchal.kernels.fused_forward.attention_with_shared_prefix", counted)
    monkeypatch.setattr("effchal.kernels.shared_prefix.WORTH_SHARING", 14)
    for lengths in ([9, 9, 9], [8, 12, 7]):
        tapped = TappedModel(random_model(*MODELS[name]))
        fast = decoded_states(tapped, lengths, shared=7)
        steps = (
            len(calls) / tapped.num_layers
        )  # of six; where a window hides columns, nothing is shared
        window = MODELS[name][1].get("sliding_window")
        assert steps == (6 if window is None else max(0, min(6, window - max(lengths))))
        tapped._fused = None
        slow = decoded_states(tapped, lengths, shared=7)
        assert (fast - slow).norm() <= 2e-5 * slow.norm()
        calls.clear()


@pytest.mark.parametrize("name", [name for name in MODELS if "window" in name])
@torch.inference_mode()
def test_a_window_hides_what_transformers_own_mask_hides(name):
    model = random_model(*MODELS[name])
    ids = torch.randint(300, (1, 20), generator=torch.Generator().manual_seed(0))
    expected = model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
    tapped, cache = TappedModel(model), RowCache()
    cache.add_row()
    for position in range(20):
        found = tapped.extend(
            [NewTokens(cache, 0, ids[:, position : position + 1])], (), torch.tensor([0])
        )[-1, 0]
        assert (found - expected[position]).norm() <= 2e-5 * expected[position].norm()


def test_one_token_in_each_of_many_rows(monkeypatch):
    model, lengths, taken = random_model("Llama", {}), [9, 4, 7], []
    expected = decoded_states(TappedModel(model), lengths)
    monkeypatch.setattr("effchal.kernels.cpu_linear.FEW_ROWS", 2)
    tapped = TappedModel(model)
    tapped._fused.max_tokens = 2
    layer = tapped._fused._layers[0]
    norm = layer.norm
    layer.norm = lambda x: taken.append(1) or norm(x)
    found = decoded_states(tapped, lengths)
    assert len(taken) == 6  # prompts and the tail are longer than two tokens
    assert (found - expected).norm() <= 2e-5 * expected.norm()


@needs_smollm2
def test_on_the_real_model(smollm2):
    check_paths_agree(smollm2[0])


@pytest.mark.integration
@pytest.mark.parametrize("quantization", [None, Quantization.nf4])
@pytest.mark.parametrize("lora", [LoraConfig(r=4), LoraConfig(r=4, use_dora=True)])
def test_with_adapters_on_all_weights_and_on_nf4(lora, quantization):
    lora.target_modules = [
        "q_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "down_proj",
    ]  # k_proj and up_proj have none
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.float32, quantization=quantization)
    model = add_adapter(load_base_model(cfg, CPU), lora, seed=0).eval()
    fill_adapter(model, std=0.3)
    check_paths_agree(model)
    tapped = TappedModel(model)
    with torch.inference_mode():
        adapted = decoded_states(tapped, [4])
        with model.disable_adapter():
            assert (
                decoded_states(TappedModel(model), [4]) - adapted
            ).norm() > 1e-2 * adapted.norm()


def test_layers_that_are_not_known_are_left_to_the_model():
    model = random_model("Olmo2", {})
    assert parts_of(model.model.layers[0]) is None
    tapped = TappedModel(model)
    assert tapped._fused is None
    assert torch.isfinite(decoded_states(tapped, [3, 4])).all()


def test_a_hooked_backbone_is_left_to_the_model():
    model = random_model("Llama", {})
    model.model(input_ids=torch.tensor([[1]]), output_hidden_states=True)  # leaves hooks of its own
    assert TappedModel(model)._fused is not None
    seen = []
    model.model.layers[1].register_forward_pre_hook(lambda *_: seen.append(1))
    decoded_states(TappedModel(model), [3], steps=2)
    assert len(seen) == 4  # the prompt, two steps and the tail


def test_weights_laid_together_take_no_memory_and_stay_the_modules_own():
    layers = [torch.nn.Linear(64, out) for out in (96, 32, 32)]
    x = torch.randn(3, 64)
    with torch.inference_mode():
        expected = torch.cat([layer(x) for layer in layers], dim=-1)
        joint = decoding_linear(layers, ScratchBuffers(), RowAdapters("default"))
        assert torch.allclose(joint(x), expected, atol=1e-5)
        assert torch.equal(torch.cat([layer(x) for layer in layers], dim=-1), expected)
        whole = side_by_side([layer.weight for layer in layers])
        assert whole.data_ptr() == layers[0].weight.data_ptr()  # again: no new memory
        layers[1].weight.data.zero_()
        assert not whole[96:128].any()


@pytest.mark.parametrize(
    ("rows", "out"), [(1, 700), (1, 512), (9, 512), (5, 100), (33, 1025), (8, 960), (2, 8000)]
)
def test_the_tiled_product_is_a_linear_layer(rows, out):
    x, weight = torch.randn(rows, 64), torch.randn(out, 64)
    scratch = ScratchBuffers()
    for scale in (1.0, 2.0):  # the second in the memory of the first
        expected = torch.nn.functional.linear(scale * x, weight)
        assert torch.allclose(TiledLinear(weight, scratch)(scale * x), expected, atol=1e-4)


def test_the_packed_product_is_a_linear_layer_and_follows_its_weight():
    layer = torch.nn.Linear(64, 700, bias=False).requires_grad_(False)
    assert PackedLinear.suits(layer)
    assert not PackedLinear.suits(torch.nn.Linear(64, 700))
    packed = PackedLinear(layer.weight)
    for rows in (1, 9, 200):
        x = torch.randn(rows, 64)
        assert torch.allclose(packed(x), layer(x), atol=1e-4)
    layer.weight.mul_(2.0)
    assert torch.allclose(packed(x), layer(x), atol=1e-4)
