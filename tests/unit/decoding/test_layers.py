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
    assert TappedModel(model)._head is head(model)


@needs_smollm2
def test_the_real_model_is_tied_and_has_30_layers():
    shape = model_shape(ModelConfig(name=str(SMOLLM2)))
    assert (shape.num_layers, shape.tied, shape.max_positions) == (30, True, 8192)


def test_buckets_are_those_of_the_paper():
    assert candidate_layers("low", 32, tied=False) == tuple(range(0, 16, 2))
    assert candidate_layers("high", 32, tied=False) == tuple(range(16, 32, 2))
    assert candidate_layers("low", 30, tied=True) == tuple(range(2, 15, 2))
    assert candidate_layers("high", 30, tied=True) == tuple(range(16, 30, 2))
    assert candidate_layers("low", 60, tied=False) == tuple(range(0, 20, 2))
    assert candidate_layers("high", 60, tied=False) == tuple(range(40, 60, 2))


def dola(**keys):
    return DecodingConfig(method=DecodingMethod.dola, **keys)


def test_layers_of_a_config_are_checked_against_the_model():
    assert contrast_of(DecodingConfig(), 30, True) == Greedy()
    assert contrast_of(dola(premature_layers="high"), 30, True) == Dola(tuple(range(16, 30, 2)))
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
        contrast_of(dola(premature_layers="low"), 2, True)
    static = dola(premature_layers=[3], selector=Selector.static)
    with pytest.raises(ConfigError, match=r"sweep.*selector=static takes one layer"):
        contrast_of(static, 30, True, "sweep.premature_layers[0]", [1, 2])


def test_taps_are_the_union():
    assert taps_of([Greedy(), Dola((3, 1)), Sled((3,), exit_norm=True), Dola((1,))]) == (
        (1, False),
        (3, False),
        (3, True),
    )
