"""Bodies that would keep the interpreter to themselves are refused first, or stall nobody."""

import json
import os
import sys
import threading
import time

import pytest
from support.http_client import helm_body, post

from effchal.config import PromptConfig
from effchal.prompts.encoder import LONG_TEXT, NICE, VERY_LONG_TEXT, PromptEncoder
from effchal.serving.service import LONGEST_TEXT

MANY = 50_000


def longest_pause(work):
    """Seconds that another thread had to wait at once while `work` ran, and that it took."""
    pauses, done = [], threading.Event()

    def tick():
        before = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            pauses.append(now - before)
            before = now

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    return max(pauses), seconds


@pytest.mark.integration
@pytest.mark.parametrize("encode", ["text_ids", "raw_ids"])
def test_other_threads_run_while_a_long_text_is_encoded(tiny_engine, encode):
    encoder = PromptEncoder(tiny_engine.tokenizer, PromptConfig())
    pause, seconds = longest_pause(lambda: getattr(encoder, encode)("word " * 300_000))
    assert seconds > 0.1
    assert pause < seconds / 3


def is_patient(thread):
    """Whether it encodes very long texts, and has begun."""
    return thread.name == "very-long-texts_0" and thread.native_id is not None


@pytest.mark.integration
def test_a_prompt_of_ordinary_length_does_not_wait_for_a_very_long_text(tiny_engine):
    encoder = PromptEncoder(tiny_engine.tokenizer, PromptConfig())
    long = threading.Thread(target=encoder.text_ids, args=["word " * 600_000])
    long.start()
    while not (patient := [each.native_id for each in threading.enumerate() if is_patient(each)]):
        assert long.is_alive()
        time.sleep(0.001)
    assert encoder.text_ids("word " * 2000)
    assert long.is_alive()
    if sys.platform == "linux":
        assert os.getpriority(os.PRIO_PROCESS, patient[0]) == NICE
    long.join()


LENGTHS = [0, 1, LONG_TEXT - 1, LONG_TEXT, LONG_TEXT + 1, VERY_LONG_TEXT, VERY_LONG_TEXT + 1]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_long_text_has_the_same_ids_as_a_short_one(tiny_engine, length):
    encoder = PromptEncoder(tiny_engine.tokenizer, PromptConfig())
    text = ("naïve </s> 漢字 \n" * length)[:length]
    backend = tiny_engine.tokenizer.backend_tokenizer
    expected = backend.encode(text, add_special_tokens=False).ids
    assert encoder.raw_ids(text) == expected
    assert tiny_engine.tokenizer.decode(encoder.text_ids(text)) == text


# The longest token of the tiny model is "</s>" or "<pad>", and its server takes 200 tokens.
TOO_LONG = "x" * 1001


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/process", helm_body(prompt=TOO_LONG), "prompt"),
        ("/process", helm_body(prompt=TOO_LONG, echo_prompt=True), "prompt"),
        ("/v1/completions", {"prompt": TOO_LONG}, "prompt"),
        ("/v1/completions", {"prompt": [TOO_LONG, "x"]}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": TOO_LONG}]}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * 201}, "messages"),
        ("/tokenize", {"text": "x" * (LONGEST_TEXT + 1)}, "text"),
        ("/tokenize", {"content": "x" * (LONGEST_TEXT + 1)}, "content"),
        ("/tokenize", {"prompt": "x" * (LONGEST_TEXT + 1)}, "prompt"),
    ],
)
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(
    client, monkeypatch, path, body, field
):
    def encode(*_):
        raise AssertionError("tokenised")

    monkeypatch.setattr(PromptEncoder, "_encode", encode)
    error = post(client, path, body, status=413)["error"]
    assert error["field"] == field


def test_a_text_of_the_longest_tokens_is_taken(client):
    body = {"prompt": "<pad>" * 200, "max_tokens": 1}
    assert post(client, "/v1/completions", body)["usage"]["prompt_tokens"] == 200


@pytest.mark.parametrize("depth", [900, 5000, 100_000])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/process", {"prompt": "x", "decoding": {"premature_layers": 0}}),
        ("/v1/completions", {"prompt": 0}),
        ("/v1/chat/completions", {"messages": 0}),
        ("/tokenize", {"text": 0}),
        ("/decode", {"tokens": 0}),
    ],
)
def test_a_body_that_is_nested_deeply_is_400(client, service, path, body, depth):
    service.cfg.serve.allow_decoding_override = True
    data = json.dumps(body).replace("0", "[" * depth + "]" * depth)
    response = client.post(path, data=data)
    assert response.status_code == 400
    assert response.get_json()["error"]["message"]


@pytest.mark.parametrize("sign", [",", "[", "{", ":", "\\"])
def test_a_body_of_very_many_values_is_413_before_it_is_parsed(client, sign):
    response = client.post("/decode", data='{"tokens": [' + sign * 1_000_001)  # parsed, it is 400
    assert response.status_code == 413
    assert repr(sign) in response.get_json()["error"]["message"]


def keys(prefix):
    return {f"{prefix}{number}": number for number in range(MANY)}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/process", {"prompt": "x", "decoding": keys("key")}),
        ("/process", {"prompt": "x", "decoding": {"k" * 1_000_000: 1}}),
        ("/process", {"prompt": "x", "decoding": {"premature_layers": [0] * MANY}}),
        ("/process", {"prompt": "x", "decoding": {"premature_layers": keys("key")}}),
        ("/process", {"prompt": 5, **keys("key")}),
        ("/decode", {"tokens": ["x"] * MANY}),
        ("/v1/completions", {"prompt": [[]] * MANY}),
        ("/v1/completions", {"prompt": [1] * MANY + ["x"]}),
        ("/v1/completions", {"prompt": "x", "stop": [5] * MANY}),
        ("/v1/chat/completions", {"messages": [{}] * MANY}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{}] * MANY}]}),
    ],
)
def test_very_many_faults_are_refused_at_once_and_in_few_words(client, service, path, body):
    service.cfg.serve.allow_decoding_override = True
    start = time.perf_counter()
    error = post(client, path, body, status=400)["error"]
    assert time.perf_counter() - start < 2.5  # a report of each took 10 to 40 s
    assert len(error["message"]) <= 1000


def test_as_many_layers_as_any_model_has_may_be_named(client, service):
    service.cfg.serve.allow_decoding_override = True
    decoding = {"method": "dola", "premature_layers": list(range(200))}
    error = post(client, "/process", {"prompt": "x", "decoding": decoding}, status=400)["error"]
    assert error["message"].startswith("decoding.premature_layers has [2, 3, ")


def test_a_token_beyond_the_embedding_is_400_and_named(client, service, monkeypatch):
    engine = service.loaded().engine
    monkeypatch.setattr(engine, "embeddings", 257)  # the tokenizer has 258
    for body in ({"prompt": [5, 257]}, {"prompt": "a<pad>"}):
        error = post(client, "/v1/completions", body, status=400)["error"]
        assert "token 257 ('<pad>') is beyond this model's 257 embeddings" in error["message"]
    assert post(client, "/decode", {"tokens": [257]})["text"] == ""
