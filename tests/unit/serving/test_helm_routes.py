"""POST /process, /tokenize and /decode, as HELM's client uses them."""

import math

import pytest
from support.http_client import helm_body

from effchal.config import DecodingConfig
from effchal.config.choices import DecodingMethod
from effchal.decoding.contrast import Dola
from effchal.decoding.sampling import SamplingParams
from effchal.prompts.encoder import Turn
from effchal.serving.app import make_app
from effchal.serving.helm_types import ProcessRequest
from effchal.serving.service import Service


def check_answer(answer):
    """What HELM reads or asserts of every answer."""
    assert set(answer) == {"text", "tokens", "logprob", "request_time"}
    assert "".join(token["text"] for token in answer["tokens"]) == answer["text"]
    numbers = [answer["logprob"], answer["request_time"]]
    for token in answer["tokens"]:
        names = {"text", "logprob", "base_logprob", "plain_logprob", "top_logprob"}
        assert set(token) == names
        assert token["plain_logprob"] == token["base_logprob"]  # its earlier name
        numbers += [token["logprob"], *token["top_logprob"].values()]
    assert all(isinstance(number, float | int) and math.isfinite(number) for number in numbers)
    assert answer["logprob"] == pytest.approx(sum(token["logprob"] for token in answer["tokens"]))


def sampling_params(body, service):
    """What /process makes of a body."""
    stops, top = body.stop_sequences, body.top_k_per_token
    return service.sampling_params(body, body.max_new_tokens, stops, top)


def test_process_answers_helm_with_the_trained_template(client, service):
    answer = client.post("/process", json=helm_body()).get_json()
    check_answer(answer)
    ids = service.loaded().encoder.prompt_ids([Turn("user", "hello")])
    model = service.loaded()
    model.scheduler.stop()
    assert answer["text"] == model.engine.complete(ids, SamplingParams(max_new_tokens=8)).text
    assert all(len(token["top_logprob"]) == 1 for token in answer["tokens"])


def test_the_prompt_alone_is_enough(client):
    answer = client.post("/process", json={"prompt": "The capital of France is "}).get_json()
    check_answer(answer)
    assert 0 < len(answer["tokens"]) <= 5


def test_keys_of_the_2023_sample_and_unknown_ones_are_taken(client):
    body = {
        "prompt": "x",
        "num_samples": 1,
        "top_k": 5,
        "seed": 7,
        "temperature": 0.9,
        "embedding": None,
    }
    first, second = (client.post("/process", json=body).get_json() for _ in range(2))
    check_answer(first)
    assert first["text"] == second["text"]


def test_zero_new_tokens_with_echo_scores_the_prompt_as_it_is(client):
    answer = client.post(
        "/process", json=helm_body(prompt="a b c", max_new_tokens=0, echo_prompt=True)
    ).get_json()
    check_answer(answer)
    assert answer["text"] == "a b c"
    assert answer["tokens"][0]["logprob"] == 0.0
    assert all(token["logprob"] < 0 for token in answer["tokens"][1:])


def test_zero_new_tokens_is_an_empty_answer(client):
    answer = client.post("/process", json=helm_body(max_new_tokens=0)).get_json()
    check_answer(answer)
    assert (answer["text"], answer["tokens"]) == ("", [])


@pytest.mark.parametrize("echo", [False, True])
def test_an_empty_prompt_is_answered(client, echo):
    check_answer(client.post("/process", json=helm_body(prompt="", echo_prompt=echo)).get_json())


def test_stops_are_honoured_on_text(client):
    whole = client.post("/process", json=helm_body(max_new_tokens=20)).get_json()["text"]
    stop = whole[4:6]
    answer = client.post(
        "/process", json=helm_body(max_new_tokens=20, stop_sequences=[stop, "never"])
    ).get_json()
    check_answer(answer)
    assert answer["text"] == whole[: whole.index(stop)]


def test_a_request_decides_over_the_bundle_and_the_bundle_where_it_is_silent(service):
    silent = sampling_params(ProcessRequest(prompt="x"), service)
    assert (silent.temperature, silent.top_p, silent.max_new_tokens) == (0.0, 1.0, 5)
    sample = DecodingMethod.sample
    service.cfg.decoding = DecodingConfig(
        method=sample, temperature=0.7, top_p=0.9, max_new_tokens=6
    )
    silent = sampling_params(ProcessRequest(prompt="x"), service)
    assert (silent.temperature, silent.top_p, silent.max_new_tokens) == (0.7, 0.9, 6)
    spoken = sampling_params(
        ProcessRequest(prompt="x", temperature=0.0, top_p=0.5, max_new_tokens=1), service
    )
    assert (spoken.temperature, spoken.top_p, spoken.max_new_tokens) == (0.0, 0.5, 1)


def test_the_bundle_decides_on_layers_and_penalty(serving_cfg, tiny_engine):
    serving_cfg.decoding = DecodingConfig(
        method=DecodingMethod.dola,
        premature_layers=[0, 1],
        repetition_penalty=1.2,
        contrast_prompt=True,
    )
    service = Service(serving_cfg)
    service.set_ready(tiny_engine)
    asked = sampling_params(ProcessRequest(prompt="x", temperature=0.0), service)
    assert asked.contrast == Dola((0, 1))
    assert (asked.repetition_penalty, asked.contrast_prompt) == (1.2, True)
    answer = make_app(service).test_client().post("/process", json=helm_body()).get_json()
    check_answer(answer)
    assert any(token["logprob"] != token["base_logprob"] for token in answer["tokens"])
    assert all(token["base_logprob"] < 0 for token in answer["tokens"])
    service.loaded().scheduler.stop()


TEXTS = ["Hello  world", "naïve 漢字 🙂", "</s><|endoftext|><s>", " a\n\n b\t", "", "\r\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_decode_undoes_tokenize(client, text):
    tokens = client.post("/tokenize", json={"text": text}).get_json()["tokens"]
    assert client.post("/decode", json={"tokens": tokens}).get_json()["text"] == text


def test_tokenize_truncates_when_asked_and_only_then(client):
    body = {"text": "0123456789", "truncation": True, "max_length": 4}
    answer = client.post("/tokenize", json=body).get_json()
    assert len(answer["tokens"]) == 4
    assert answer["request_time"] >= 0
    assert (
        len(client.post("/tokenize", json=body | {"truncation": False}).get_json()["tokens"]) == 10
    )
    for name in ("prompt", "content"):
        assert len(client.post("/tokenize", json={name: "0123"}).get_json()["tokens"]) == 4


def test_decode_skips_special_tokens(client, service):
    tokens = [*service.loaded().encoder.text_ids("ab"), service.loaded().encoder.eos_id]
    assert client.post("/decode", json={"tokens": tokens}).get_json()["text"] == "ab"
