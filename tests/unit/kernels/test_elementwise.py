"""Functions that a card runs as one kernel each: in the layers, and as Triton computes them."""

import os

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from support.adapted_models import (
    assert_close,
    is_fused,
    make,
    packed,
    states_and_gradients,
    under_a_dense_mask,
)

from effchal.config.choices import ActivationCheckpointing
from effchal.kernels import dropout, elementwise, norm
from effchal.kernels.elementwise import BY_NAME
from effchal.kernels.guarded_kernel import GuardedKernel
from effchal.training.layers import prepare_training


@pytest.fixture
def as_on_a_card(monkeypatch):
    """Layers call the functions of a card, each of which runs as it stands."""
    for module in (elementwise, dropout, norm):
        monkeypatch.setattr(module, "is_compiled", lambda x: True)
    monkeypatch.setattr(GuardedKernel, "kernel", property(lambda self: self.twin))


@pytest.mark.parametrize("keep", list(ActivationCheckpointing))
@pytest.mark.parametrize("shape", ["llama", "qwen3", "gemma3", "granite", "smollm3"])
def test_layers_of_these_functions_give_the_librarys_gradients(as_on_a_card, shape, keep):
    expected = states_and_gradients(make(shape), under_a_dense_mask)
    model = make(shape)
    prepare_training(model, keep)
    assert is_fused(model)
    assert_close(states_and_gradients(model, packed), expected)


def test_a_counted_mask_is_the_same_at_every_level_of_checkpointing(as_on_a_card):
    levels = []
    for keep in ActivationCheckpointing:
        model = make("llama", dropout=0.3)
        prepare_training(model, keep)
        torch.manual_seed(5)
        levels.append(states_and_gradients(model, packed))
    for one, *others in zip(*levels, strict=True):
        assert all(torch.equal(one, other) for other in others)
    without = make("llama")
    prepare_training(without, ActivationCheckpointing.none)
    assert not torch.equal(levels[0][0], packed(without))


def test_a_counted_mask_drops_by_chance_alone():
    x = torch.ones(2000, 500)
    first, other = (dropout.CountedMask(0.95, seed).times(x) for seed in (7, 8))
    assert abs(first.mean() - 0.95) < 1e-3
    assert abs(first.var() - 0.05 * 0.95) < 1e-3
    off, other_off = first - 0.95, other - 0.95
    pairs = [(off, other_off), (off[1:], off[:-1]), (off[:, 1:], off[:, :-1])]
    assert all(abs((a * b).mean()) < 0.01 * 0.05 * 0.95 for a, b in pairs)
    added = dropout.CountedMask(0.95, 7).add(x, 2 * x)
    assert torch.equal(added, x + 2 * first)


def test_nothing_is_compiled_on_a_cpu():
    assert not elementwise.is_compiled(torch.ones(2))


def arguments():
    """Of each function, for a few rows."""
    draw = torch.Generator().manual_seed(0)

    def made(*shape):
        return torch.randn(*shape, generator=draw)

    x, dy, gain, gate_up = made(5, 60), made(5, 60), made(60), made(5, 2 * 1100)
    heads, cos, sin = made(5, 6, 20), made(5, 1, 6), made(5, 1, 12)[..., :6]
    yield elementwise.normed, (x, gain, 1e-5)
    yield elementwise.normed_backward, (dy, x, gain, 1e-5, None)
    yield elementwise.normed_backward, (dy[:, :30], x[:, :30], gain[:30], 1e-5, dy[:, :30])
    yield elementwise.rotated, (heads, cos, sin, 4, -1.0)
    once = [angles[:1].expand(6, -1, -1) for angles in (cos, sin)]
    yield elementwise.rotated, (heads.transpose(0, 1), *once, 5, 1.0)
    for name in BY_NAME:
        yield elementwise.gated, (gate_up, name)
        yield elementwise.gated_backward, (gate_up, made(5, 1100), name)
    for seed in (0, 1, 2**31 + 7, 2**61 + 7):
        yield dropout.dropped, (gate_up, 2**23, seed)
        yield dropout.added_dropped, (gate_up, 2 * gate_up, 2**23, seed)


interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs triton and TRITON_INTERPRET=1"
)


@interpreted
@pytest.mark.parametrize("number", range(len(list(arguments()))))
def test_a_kernel_is_its_function(number):
    operation, given = list(arguments())[number]
    torch.testing.assert_close(operation.guarded.kernel(*given), operation.function(*given))


@interpreted
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_4_bits_are_unpacked_as_bitsandbytes_does(kind):
    from effchal.kernels.triton_elementwise import unpack_4_bits

    weight = torch.randn(300, 448, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight, compress_statistics=True, quant_type=kind)
    found = torch.full_like(weight, torch.nan)
    unpack_4_bits(packed, state, found)
    assert torch.equal(found, dequantize_4bit(packed, state))
