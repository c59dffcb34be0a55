"""A tokenizer with more tokens than its model has embeddings."""

import types

import numpy as np
import pytest
from odd_models import EXTRA, OVERLONG, odd_model

from effchal.config import ConfigError, ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.contrast import Greedy
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.mixing.encode import EncodedExample
from effchal.model.tokenizer import load_tokenizer
from effchal.model.vocabulary import check_vocabulary
from effchal.model_source import check_model_source, load_engine
from effchal.training.build import check_examples


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    return ModelConfig(
        name=str(odd_model(OVERLONG, tmp_path_factory.mktemp("model"))), dtype=Dtype.float32
    )


@pytest.fixture
def engine(cfg, serving_cfg, caplog):
    serving_cfg.model = cfg
    return load_engine(check_model_source(serving_cfg))


def test_loading_tells_of_tokens_that_the_model_does_not_have(engine, caplog):
    assert engine.embeddings == len(engine.tokenizer) - len(EXTRA)
    told = [each.getMessage() for each in caplog.get_records("setup")]
    beyond = f"the last 3 of the tokenizer's {len(engine.tokenizer)} tokens, from '{EXTRA[0]}' on"
    assert any(beyond in line for line in told)


def test_an_id_without_an_embedding_never_reaches_the_model(engine, monkeypatch):
    def reached(*_):
        raise AssertionError("the model was run")

    monkeypatch.setattr(engine.model, "extend", reached)
    monkeypatch.setattr(engine.model, "states", reached)
    beyond = engine.embeddings
    message = f"token {beyond} is beyond this model's {beyond} embeddings"
    with pytest.raises(ValueError, match=message):
        engine.complete([5, beyond, 6], SamplingParams(max_new_tokens=1))
    for prompt, continuation in (([5, beyond], [6]), ([5], [6, beyond])):
        with pytest.raises(ValueError, match=message):
            Scorer(engine.model).score(prompt, [[7], continuation], [Greedy()])


def test_a_tokenizer_that_ends_texts_with_no_embedding_is_refused(cfg):
    tokenizer = load_tokenizer(cfg)
    assert check_vocabulary(tokenizer, len(tokenizer))
    assert not check_vocabulary(tokenizer, len(tokenizer) - 1)
    tokenizer.eos_token = EXTRA[2]
    last = len(tokenizer) - 1
    with pytest.raises(ConfigError, match=f"end-of-sequence token '<extra_2>' has id {last}"):
        check_vocabulary(tokenizer, last)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_an_example_with_such_a_token_is_refused_before_training(cfg, part):
    tokenizer = load_tokenizer(cfg)
    rows = len(tokenizer) - len(EXTRA)

    def example(name, ids):
        return EncodedExample(name, np.array(ids), np.array(ids), False)

    fine = [example("a:0", [1, rows - 1])]
    data = types.SimpleNamespace(train=fine, validation=fine)
    check_examples(tokenizer, rows, data)
    setattr(data, part, [*fine, example("a:1", [1, rows + 1])])
    with pytest.raises(ConfigError, match=rf"a:1 has token {rows + 1} \('<extra_1>'\)"):
        check_examples(tokenizer, rows, data)
