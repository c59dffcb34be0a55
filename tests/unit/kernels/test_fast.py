"""Fused layers against the library's own, on random models of each shape they know."""

import shutil

import pytest
import torch
from support.adapted_models import (
    ALL,
    IDS,
    SHAPES,
    assert_close,
    is_fused,
    loss_and_gradients,
    make,
    packed,
    states_and_gradients,
    under_a_dense_mask,
)

from effchal.config.choices import ActivationCheckpointing
from effchal.kernels.attention import packed_hidden_states
from effchal.kernels.decoder_layer import LayerFunction
from effchal.kernels.norm import RmsNorm
from effchal.model.structure import layers_of
from effchal.training.layers import prepare_training


@pytest.mark.parametrize(
    "targets", [ALL, ["q_proj", "v_proj"], ["up_proj", "o_proj"], ["down_proj"]]
)
@pytest.mark.parametrize("shape", list(SHAPES))
def test_fused_layers_give_the_librarys_states_and_gradients(shape, targets):
    expected = states_and_gradients(make(shape, target_modules=targets), under_a_dense_mask)
    found = {}
    for keep in ActivationCheckpointing:
        model = make(shape, target_modules=targets)
        prepare_training(model, keep)
        assert is_fused(model)
        found[keep] = states_and_gradients(model, packed)
        assert_close(found[keep], expected)
    for one, *others in zip(*found.values(), strict=True):
        assert all(
            torch.equal(one, other) for other in others
        )  # what is made again has the same bits


def test_projections_that_are_one_already_train_as_they_are():
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    expected = states_and_gradients(make("phi3", target_modules=targets), under_a_dense_mask)
    model = make("phi3", target_modules=targets)
    prepare_training(model, ActivationCheckpointing.selective)
    assert is_fused(model)
    assert_close(states_and_gradients(model, packed), expected)


@pytest.mark.parametrize("shape", ["llama", "qwen3"])
def test_torchs_own_kernel_for_norms_gives_the_same(shape, monkeypatch):
    expected = states_and_gradients(make(shape), under_a_dense_mask)
    monkeypatch.setattr(RmsNorm, "_is_known_to_torch", lambda norm, x: True)  # as on CUDA
    kernel, calls = RmsNorm.kernel, []
    monkeypatch.setattr(RmsNorm, "kernel", lambda norm, x: calls.append(1) or kernel(norm, x))
    for keep in ActivationCheckpointing:
        model = make(shape)
        prepare_training(model, keep)
        assert_close(states_and_gradients(model, packed), expected)
        assert calls
        calls.clear()


def test_rank_stabilised_adapters_keep_their_scale():
    expected = states_and_gradients(make("llama", use_rslora=True), under_a_dense_mask)
    model = make("llama", use_rslora=True)
    prepare_training(model, ActivationCheckpointing.none)
    assert is_fused(model)
    assert_close(states_and_gradients(model, packed), expected)


@pytest.mark.integration
@pytest.mark.parametrize("keep", list(ActivationCheckpointing))
@pytest.mark.parametrize("able", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_weights_are_upcast_where_the_cpu_has_no_arithmetic_for_them(
    shape, able, keep, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    in_bf16, in_float32 = with_frozen_weights_in_bfloat16(shape)
    for model in (in_bf16, in_float32):
        prepare_training(model, keep)
    expected = loss_and_gradients(in_float32, packed)
    assert packed(in_bf16).dtype == (torch.bfloat16 if able else torch.float32)
    found = loss_and_gradients(in_bf16, packed)
    if able:
        assert (
            abs(found[0] - expected[0]) <= 1e-2 * expected[0]
        )  # bfloat16 rounds at every step of the way
    else:
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def with_frozen_weights_in_bfloat16(shape, **lora):
    """A model whose adapters stay float32, and one with the same numbers all in float32."""
    in_bf16, in_float32 = make(shape, **lora), make(shape, **lora)
    for name, parameter in in_bf16.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
            in_float32.get_parameter(name).data = parameter.data.float()
    return in_bf16, in_float32


def test_a_head_with_an_adapter_is_upcast_too(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    in_bf16, in_float32 = with_frozen_weights_in_bfloat16("llama", target_modules=[*ALL, "lm_head"])
    for model in (in_bf16, in_float32):
        prepare_training(model, ActivationCheckpointing.none)
    assert_close(
        loss_and_gradients(in_bf16, packed), loss_and_gradients(in_float32, packed), tolerance=1e-5
    )


@pytest.mark.parametrize("keep", list(ActivationCheckpointing))
def test_dora_stays_with_the_library(keep):
    expected = states_and_gradients(make("llama", use_dora=True), under_a_dense_mask)
    model = make("llama", use_dora=True)
    prepare_training(model, keep)
    assert not is_fused(model)
    # It divides by the norm of each weight: float32 rounding alone gives 3e-4 on some CPUs.
    assert_close(states_and_gradients(model, packed), expected, tolerance=1e-3)


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}])
def test_full_checkpointing_makes_layers_again_and_selective_their_mlps(lora, monkeypatch):
    def calls(keep, index=0):
        model, counts = make("llama", **lora), {"layer": 0, "mlp": 0}

        def count(name):
            counts[name] += 1

        if lora:  # the library's layers; before, since recomputation may end within the layer
            layers_of(model)[index].self_attn.register_forward_pre_hook(lambda *_: count("layer"))
            layers_of(model)[index].mlp.gate_proj.register_forward_pre_hook(lambda *_: count("mlp"))
        prepare_training(model, keep)
        if not lora:
            layer = layers_of(model)[index].forward.__self__
            for name, method in (("layer", "attend"), ("mlp", "add_gate_up")):
                original = getattr(layer, method)
                monkeypatch.setattr(
                    layer, method, lambda *a, o=original, n=name: (count(n), o(*a))[1]
                )
        states_and_gradients(model, packed)
        return counts

    assert calls(ActivationCheckpointing.none) == {"layer": 1, "mlp": 1}
    assert calls(ActivationCheckpointing.selective) == {"layer": 1, "mlp": 2}
    assert calls(ActivationCheckpointing.full) == {"layer": 2, "mlp": 2}
    last = calls(ActivationCheckpointing.full, -1)  # followed by its own backward pass at once
    assert last == ({"layer": 2, "mlp": 2} if lora else {"layer": 1, "mlp": 1})


def test_backward_stops_below_the_lowest_adapter(monkeypatch):
    model = make("llama")
    prepare_training(model, ActivationCheckpointing.none)
    gradients = []
    original = LayerFunction.backward

    def backward(ctx, dy):
        result = original(ctx, dy)
        gradients.append(result[2] is not None)
        return result

    monkeypatch.setattr(LayerFunction, "backward", staticmethod(backward))
    states_and_gradients(model, packed)
    assert gradients == [True, False]  # of the last layer's input, not of the embeddings


def test_the_adapter_that_is_saved_is_peft_s_own(tmp_path):
    from safetensors.torch import load_file

    model = make("llama")
    names = set(dict(model.named_parameters()))
    prepare_training(model, ActivationCheckpointing.none)
    assert set(dict(model.named_parameters())) == names
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == 2 * 2 * len(ALL)


def test_a_prepared_model_takes_no_mask():
    model = make("llama")
    prepare_training(model, ActivationCheckpointing.none)
    with pytest.raises(RuntimeError, match="packed_hidden_states"):
        model(input_ids=IDS)


@pytest.mark.integration
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"
)
def test_compiled_layers_of_the_library_give_the_same_and_are_not_compiled_anew_for_other_lengths():
    expected = states_and_gradients(make("llama"), under_a_dense_mask)
    model = make("llama")
    prepare_training(model, ActivationCheckpointing.none, compiled=True)
    assert not is_fused(model)
    assert_close(states_and_gradients(model, packed), expected)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in ((30, 60), (10, 20, 30, 30)):
            positions = torch.cat([torch.arange(length) for length in lengths])[None]
            packed_hidden_states(model, IDS, positions, lengths).sum().backward()
