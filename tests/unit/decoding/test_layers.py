"""Which layers a config names, and whether the model has them."""

import pytest
from support.paths import SMOLLM2, needs_smollm2
from support.slow_decoding import CPU, TINY

from effchal.config import ConfigError, DecodingConfig, ModelConfig
from effchal.config.choices import DecodingMethod, Selector
from effchal.decoding.contrast import Dola, Greedy, Sled, taps_of
from effchal.decoding.layers import candidate_layers, contrast_of
from effchal.decoding.taps import TappedModel
from effchal.model.load import load_base_model, model_shape
from effchal.model.structure import causal_lm, head


def test_tied_heads_are_found():
    model = load_base_model(TINY, CPU)
    assert not TappedModel(model).tied
    causal_lm(model).config.tie_word_embeddings = True
    assert TappedModel(model).tied
    assert TappedModel(model).lm_head.module is head(model)


@needs_smollm2
def test_the_real_model_is_tied_and_has_30_layers():
    shape = model_shape(ModelConfig(name=str(SMOLLM2)))
    assert (shape.num_layers, shape.tied, shape.max_positions) == (30, True, 8192)


def transformers_layers(bucket, num_layers, tied):
    """As `_dola_decoding` of transformers 4.55.4 has them, case by case."""
    first = 0
    if tied:
        first = 2 if num_layers > 2 else num_layers - 1
    if bucket == "low" and first == num_layers // 2:
        return [first]
    if num_layers <= 40:
        half = num_layers // 2
        ends = (first, half) if bucket == "low" else (half, num_layers)
    else:
        ends = (first, 20) if bucket == "low" else (num_layers - 20, num_layers)
    return list(range(*ends, 2))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bucket", ["low", "high"])
def test_low_and_high_are_the_layers_of_transformers_for_every_depth(bucket, tied):
    for num_layers in range(1, 130):
        expected = transformers_layers(bucket, num_layers, tied)
        assert list(candidate_layers(bucket, num_layers, tied)) == expected, num_layers


@pytest.mark.parametrize(
    ("bucket", "num_layers", "tied", "layers"),
    [
        ("low", 32, False, range(0, 16, 2)),  # LLaMA-7B, as in DoLa's README
        ("high", 32, False, range(16, 32, 2)),
        ("high", 40, False, range(20, 40, 2)),  # LLaMA-13B
        ("high", 60, False, range(40, 60, 2)),  # LLaMA-33B
        ("high", 80, False, range(60, 80, 2)),  # LLaMA-65B
        ("low", 30, True, range(2, 15, 2)),
        ("high", 30, True, range(15, 30, 2)),
        ("low", 5, True, [2]),
        ("low", 2, True, [1]),
    ],
)
def test_low_and_high_of_known_depths(bucket, num_layers, tied, layers):
    assert candidate_layers(bucket, num_layers, tied) == tuple(layers)


def dola(**keys):
    return DecodingConfig(method=DecodingMethod.dola, **keys)


def test_layers_of_a_config_are_checked_against_the_model():
    assert contrast_of(DecodingConfig(), 30, True) == Greedy()
    assert contrast_of(dola(premature_layers="high"), 30, True) == Dola(tuple(range(15, 30, 2)))
    assert (
        contrast_of(dola(premature_layers=[3], selector=Selector.static), 30, True).selector
        == "static"
    )
    with pytest.raises(
        ConfigError,
        match=r"decoding\.premature_layers has \[30\].*0\.\.29 \(layer 30 is the mature",
    ):
        contrast_of(dola(premature_layers=[16, 30]), 30, True)
    with pytest.raises(ConfigError, match="leaves no layer of this model"):
        contrast_of(dola(premature_layers="low"), 3, True)
    static = dola(premature_layers=[3], selector=Selector.static)
    with pytest.raises(ConfigError, match=r"sweep.*selector=static takes one layer"):
        contrast_of(static, 30, True, "sweep.premature_layers[0]", [1, 2])


def test_taps_are_the_union():
    assert taps_of([Greedy(), Dola((3, 1)), Sled((3,), exit_norm=True), Dola((1,))]) == (
        (1, False),
        (3, False),
        (3, True),
    )
