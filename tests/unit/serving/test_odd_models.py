"""Models with a beginning-of-sequence token, whose tokenizer and embedding do not agree."""

import pytest
import torch
from odd_models import EXTRA, OVERLONG, PADDED, odd_model
from support.http_client import post

from effchal.config import Config, ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.engine import Engine
from effchal.model.load import load_base_model
from effchal.model.tokenizer import load_tokenizer
from effchal.serving.app import make_app
from effchal.serving.service import Service

KINDS = [PADDED, OVERLONG]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    found = {}
    for kind in KINDS:
        model = ModelConfig(
            name=str(odd_model(kind, tmp_path_factory.mktemp("model"))), dtype=Dtype.float32
        )
        found[kind] = Engine(load_base_model(model, torch.device("cpu")), load_tokenizer(model))
    return found


@pytest.fixture
def clients(engines):
    services = {kind: Service(Config(lora=None)) for kind in KINDS}
    for kind, service in services.items():
        service.set_ready(engines[kind])
    yield {kind: make_app(service).test_client() for kind, service in services.items()}
    for service in services.values():
        service.loaded().scheduler.stop()


def complete(client, status=200, **body):
    return post(client, "/v1/completions", {"max_tokens": 1, "logprobs": 1, **body}, status)


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("prompt", ["<s>", "", ["", "x"], ["<s>", "x"], [[0]], [[0], [0, 5]]])
@pytest.mark.parametrize("kind", KINDS)
def test_an_echo_of_the_beginning_of_sequence_alone_is_answered(clients, kind, prompt, max_tokens):
    answer = complete(clients[kind], prompt=prompt, echo=True, max_tokens=max_tokens)
    assert len(answer["choices"]) == (len(prompt) if isinstance(prompt, list) else 1)
    if isinstance(prompt, list):
        beside = complete(clients[kind], prompt=prompt[-1], echo=True, max_tokens=max_tokens)
        assert answer["choices"][-1]["text"] == beside["choices"][0]["text"]


@pytest.mark.parametrize("kind", KINDS)
def test_helm_may_echo_a_prompt_that_spells_the_beginning_of_sequence(clients, kind):
    body = {"prompt": "<s>", "echo_prompt": True, "max_new_tokens": 0}
    assert post(clients[kind], "/process", body)["text"] == "<s>"


def test_what_only_the_tokenizer_knows_is_400_and_named(clients, engines):
    last = len(engines[OVERLONG].tokenizer) - 1
    embeddings = engines[OVERLONG].model.vocabulary
    for prompt in (f"a{EXTRA[-1]}", ["x", f"{EXTRA[-1]}b"], [5, last], [[5], [5, last]]):
        error = complete(clients[OVERLONG], 400, prompt=prompt)["error"]
        beyond = f"token {last} ('{EXTRA[-1]}') is beyond this model's {embeddings} embeddings"
        assert error["message"] == beyond
    assert post(clients[OVERLONG], "/detokenize", {"tokens": [last]})["prompt"] == EXTRA[-1]
    assert complete(clients[PADDED], prompt=EXTRA[-1])["choices"]


def test_an_id_that_only_pads_the_embedding_is_400(clients, engines):
    first = len(engines[PADDED].tokenizer)
    error = complete(clients[PADDED], 400, prompt=[5, first])["error"]
    assert f"token {first} is not in the vocabulary of {first}" in error["message"]
