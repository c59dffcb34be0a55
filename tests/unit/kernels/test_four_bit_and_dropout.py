"""NF4 weights and LoRA dropout in fused layers, against the library's own layers."""

import pytest
import torch
from support.adapted_models import (
    assert_close,
    is_fused,
    loss_and_gradients,
    make,
    packed,
    states_and_gradients,
    under_a_dense_mask,
    with_random_adapter,
)
from torch import nn

from effchal.config import ModelConfig
from effchal.config.choices import ActivationCheckpointing, Dtype, Quantization
from effchal.kernels.dropout import draw_seed, keep_mask
from effchal.model.load import evaluation_mode, load_base_model
from effchal.model.structure import layers_of
from effchal.training.layers import prepare_training

CPU = torch.device("cpu")


def nf4(double_quant=True, **lora):
    cfg = ModelConfig(
        name="builtin:tiny",
        dtype=Dtype.float32,
        quantization=Quantization.nf4,
        double_quant=double_quant,
    )
    return with_random_adapter(load_base_model(cfg, CPU), **lora)


@pytest.mark.parametrize("keep", list(ActivationCheckpointing))
@pytest.mark.parametrize("double_quant", [True, False])
def test_nf4_weights_give_the_librarys_loss_and_gradients(double_quant, keep):
    expected = loss_and_gradients(nf4(double_quant), under_a_dense_mask)
    model = nf4(double_quant)
    prepare_training(model, keep)
    assert is_fused(model)
    found = loss_and_gradients(model, packed)
    assert abs(found[0] - expected[0]) <= 1e-6 * expected[0]
    assert_close(found[1:], expected[1:], tolerance=1e-4)


def test_a_weight_that_was_packed_for_another_kernel_is_refused():
    model = nf4()
    prepare_training(model, ActivationCheckpointing.none)
    weight = layers_of(model)[0].mlp.down_proj.base_layer.weight
    weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(RuntimeError, match="load it again"):
        packed(model)


class SameMask(nn.Dropout):
    """The library's dropout, with the mask that fused layers make of a seed."""

    def __init__(self, p, seed):
        super().__init__(p)
        self.seed = seed

    def forward(self, x):
        mask = keep_mask(x[0], 1 - self.p, self.seed)
        return x * mask / (1 - self.p) if self.training else x


def with_masks_of_seeds(model):
    """Give each adapter the mask that its place in a fused layer has."""
    torch.manual_seed(5)
    places = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
    for layer in layers_of(model):
        seed = draw_seed(torch.empty(1))
        for place, names in enumerate(places):
            for name in names:
                owner = layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp
                dropout = getattr(owner, name).lora_dropout
                dropout["default"] = SameMask(dropout["default"].p, seed + place)
    return model


@pytest.mark.parametrize("shape", ["llama", "gemma3", "nf4"])
def test_dropout_gives_the_librarys_gradients_under_the_same_masks_at_every_level(shape):
    def made():
        return nf4(dropout=0.3) if shape == "nf4" else make(shape, dropout=0.3)

    expected = states_and_gradients(with_masks_of_seeds(made()), under_a_dense_mask)
    levels = []
    for keep in ActivationCheckpointing:
        model = made()
        prepare_training(model, keep)
        assert is_fused(model)
        torch.manual_seed(5)
        levels.append(states_and_gradients(model, packed))
        assert_close(levels[-1], expected, tolerance=5e-4)
    for one, *others in zip(*levels, strict=True):
        assert all(torch.equal(one, other) for other in others)


def test_dropout_is_drawn_anew_each_pass_and_is_off_in_evaluation():
    model, plain = make("llama", dropout=0.3), make("llama")
    for each in (model, plain):
        prepare_training(each, ActivationCheckpointing.none)
    torch.manual_seed(5)
    first, second = packed(model), packed(model)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(packed(model), first)
    with evaluation_mode(model), torch.no_grad():
        state = torch.get_rng_state()
        assert torch.equal(packed(model), packed(plain))
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_has_the_mean_and_the_variance_of_its_probability(dtype):
    x = torch.empty(2000, 500, dtype=dtype)
    mask = keep_mask(x, 0.95, seed=7).float()
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    deviation = (0.95 * 0.05 / x.numel()) ** 0.5
    assert abs(mask.mean() - 0.95) < 4 * deviation
    # Of a million draws in rows and in columns: neighbours are independent.
    for dim in (0, 1):
        means = mask.mean(dim)
        expected = 0.95 * 0.05 / mask.shape[dim]
        assert abs(means.var() / expected - 1) < 4 * (2 / len(means)) ** 0.5
    assert not torch.equal(mask, keep_mask(x, 0.95, seed=8).float())
