"""serve.merge_adapter: the adapter goes into the weights, and the answers stay."""

import threading
import time

import pytest
import torch
from support.configs import compose_config
from support.exports import save_bundle, source_of
from support.http_client import post

from effchal.config import ConfigError
from effchal.config.choices import Dtype
from effchal.decoding.sampling import SamplingParams
from effchal.model_source import check_mergeable, load_engine
from effchal.serving.app import serving_config, start_app

IDS = list(range(1, 60))


def answer(engine):
    found = engine.complete(IDS, SamplingParams(max_new_tokens=24))
    return found.ids, [token.logprob for token in found.all_tokens]


@pytest.mark.parametrize("lora", [{"r": 4}, {"use_dora": True}, {"target_modules": ["lm_head"]}])
def test_answers_are_those_of_the_adapter_beside_the_weights(tmp_path, lora):
    source = source_of(save_bundle(tmp_path / "bundle", **lora))
    check_mergeable(source)
    apart, merged = load_engine(source), load_engine(source, merge_adapter=True)
    (ids, logprobs), found = answer(apart), answer(merged)
    assert found[0] == ids
    assert found[1] == pytest.approx(logprobs, abs=1e-4)
    assert apart.drift is None
    assert merged.drift.same_choice == merged.drift.tokens > 60
    assert 0 < merged.drift.nats_max < 1e-4


def test_the_drift_of_coarse_weights_is_told(tmp_path):
    """An adapter of a 1e-4th of the weights is lost in bfloat16's eight bits."""
    fine, coarse = (
        load_engine(source_of(save_bundle(tmp_path / dtype.value, r=4), dtype), merge_adapter=True)
        for dtype in (Dtype.float32, Dtype.bfloat16)
    )
    assert coarse.drift.nats_mean > 100 * fine.drift.nats_mean


def test_a_merge_that_changes_the_model_is_refused(tmp_path, monkeypatch):
    import effchal.model.merge as module

    def wrong(adapted):
        plain = adapted.base_model.unload()
        for parameter in plain.parameters():
            torch.nn.init.normal_(parameter)
        return plain

    monkeypatch.setattr(module, "merge_adapter", wrong)
    with pytest.raises(ConfigError, match="would serve another model: log-probabilities"):
        load_engine(source_of(save_bundle(tmp_path / "bundle", r=4)), merge_adapter=True)


def test_what_cannot_take_an_adapter_in_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs one bundle with an adapter"):
        check_mergeable(source_of(save_bundle(tmp_path / "plain")))
    nf4 = save_bundle(tmp_path / "nf4", "model.quantization=nf4", r=4)
    with pytest.raises(ConfigError, match="weights in nf4 cannot take an adapter in"):
        check_mergeable(source_of(nf4))


def test_a_server_tells_the_drift(tmp_path):
    typed = [f"bundle={save_bundle(tmp_path / 'bundle', r=4)}", "serve.merge_adapter=true"]
    failed = threading.Event()
    cfg = serving_config(compose_config(typed), typed)
    client = start_app(cfg, typed, failed.set).test_client()
    while client.get("/ready").status_code != 200:
        assert not failed.is_set()
        time.sleep(0.05)
    (model,) = client.get("/v1/models").json["data"]
    told = model["merged_adapter"]
    assert told["same_choice"] == told["tokens"]
    assert post(client, "/process", {"prompt": "a", "max_new_tokens": 2})["text"]
