"""What clients are told: of the end of an answer, of special tokens, of what they left out."""

import copy
import json
import time

import pytest
from support.http_client import TALK, post
from support.scripted import scripted
from tokenizers.processors import TemplateProcessing

from effchal.decoding.engine import Engine
from effchal.serving.app import make_app
from effchal.serving.service import Service

LM_EVAL = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}


@pytest.fixture
def client_of(serving_cfg):
    """Clients of servers on other engines; stopped at the end."""
    started = []

    def make(engine):
        service = Service(serving_cfg, "tiny")
        service.set_ready(engine)
        started.append(service)
        return make_app(service).test_client()

    yield make
    for service in started:
        service.loaded().scheduler.stop()


@pytest.fixture
def bos_client(client_of, tiny_engine):
    """A server whose tokenizer puts <pad> before every text."""
    tokenizer = copy.deepcopy(tiny_engine.tokenizer)
    pad = tokenizer.pad_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", pad)]
    )
    engine = Engine.__new__(Engine)
    engine.__dict__.update(tiny_engine.__dict__ | {"tokenizer": tokenizer})
    yield client_of(engine)
    tiny_engine.clear()


def complete(client, prompt, **keys):
    return post(client, "/v1/completions", {"prompt": prompt} | keys)["choices"][0]


def events(client, path, body):
    text = client.post(path, json=body | {"stream": True}).get_data(as_text=True)
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line)["choices"][0] for line in lines]


def test_where_the_model_ends_an_echo_has_an_entry_for_the_end(client_of, tiny_engine):
    ids = tiny_engine.tokenizer("Q: a A: b").input_ids
    choice = complete(client_of(scripted(tiny_engine, "")), ids, **LM_EVAL)
    logprobs = choice["logprobs"]
    assert (choice["text"], choice["finish_reason"]) == ("Q: a A: b", "stop")
    assert logprobs["tokens"] == [*"Q: a A: b", ""]
    assert logprobs["text_offset"] == list(range(len(ids) + 1))
    assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values()) < 0
    goes_on = complete(client_of(scripted(tiny_engine, "x")), ids, **LM_EVAL)
    # What lm-eval sums: all but the last entry.
    expected = goes_on["logprobs"]["token_logprobs"][:-1]
    assert logprobs["token_logprobs"][:-1] == expected


def test_a_chat_has_an_entry_for_the_end(client_of, tiny_engine):
    body = {"messages": TALK, "logprobs": True, "top_logprobs": 1, "max_tokens": 9}
    client = client_of(scripted(tiny_engine, "ab"))
    answer = post(client, "/v1/chat/completions", body)
    content = answer["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in content] == ["a", "b", ""]
    assert content[-1]["bytes"] == []
    assert len(content) == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_last_part_of_a_stream_has_the_entry_for_the_end(client_of, tiny_engine, path):
    chat = "chat" in path
    asked = {"messages": TALK, "logprobs": True} if chat else {"prompt": "x", "logprobs": 1}
    *_, before, last = events(client_of(scripted(tiny_engine, "ab")), path, asked)
    assert (before["finish_reason"], last["finish_reason"]) == (None, "stop")
    if chat:
        assert [token["token"] for token in last["logprobs"]["content"]] == [""]
        assert last["delta"] == {"role": None, "content": None}
    else:
        assert (last["logprobs"]["tokens"], last["logprobs"]["text_offset"]) == ([""], [2])
        assert last["text"] == ""


def test_helm_gets_no_entry_for_the_end(client_of, tiny_engine):
    answer = post(client_of(scripted(tiny_engine, "ab")), "/process", {"prompt": "x"})
    assert [token["text"] for token in answer["tokens"]] == ["a", "b"]
    assert answer["logprob"] == sum(token["logprob"] for token in answer["tokens"])


def test_a_special_token_as_stop_ends_the_answer(client_of, tiny_engine):
    choice = complete(client_of(scripted(tiny_engine, "ab<pad>cd")), "x", stop="<pad>")
    assert (choice["text"], choice["finish_reason"]) == ("ab", "stop")
    unasked = complete(client_of(scripted(tiny_engine, "ab<pad>cd")), "x", max_tokens=5)
    assert unasked["text"] == "abcd"


def test_an_echo_repeats_the_special_tokens_of_the_prompt(client):
    choice = complete(client, "a<pad>b</s>", **LM_EVAL | {"max_tokens": 0})
    assert choice["text"] == "a<pad>b</s>"
    assert choice["logprobs"]["tokens"] == ["a", "<pad>", "b", "</s>"]


@pytest.mark.parametrize(
    ("prompt", "echoed"), [("<pad>", ["<pad>"]), ("<pad>x", ["<pad>", "x"]), ("x", ["x"]), ("", [])]
)
def test_an_echo_has_what_the_client_wrote_and_no_more(bos_client, prompt, echoed):
    choice = complete(bos_client, prompt, **LM_EVAL)
    tokens, values = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
    assert tokens[:-1] == echoed
    assert [value is None for value in values] == [bool(echoed), *[False] * (len(tokens) - 1)]


def test_an_empty_text_beside_another_is_answered(bos_client, client):
    for each in (bos_client, client):
        body = {"prompt": ["", "x"]} | LM_EVAL
        first, second = post(each, "/v1/completions", body)["choices"]
        assert first["logprobs"]["token_logprobs"][0] is not None
        assert second["logprobs"]["tokens"][0] == "x"


NULLS = {
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": TALK},
    "/process": {"prompt": "hi"},
    "/tokenize": {"text": "hi"},
}


@pytest.mark.parametrize("path", NULLS)
def test_an_explicit_null_is_the_default(client, path):
    schema = client.get("/openapi.json").get_json()
    reference = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    name = reference["schema"]["$ref"].rpartition("/")[2]
    keys = schema["components"]["schemas"][name]["properties"]
    asked = NULLS[path] | {"max_new_tokens" if path == "/process" else "max_tokens": 3}
    asked = NULLS[path] if path == "/tokenize" else asked
    nulls = dict.fromkeys(keys) | {"foo": None} | asked
    own = {"id", "created", "request_time"}
    plain, with_nulls = (
        {key: value for key, value in post(client, path, body).items() if key not in own}
        for body in (asked, nulls)
    )
    assert plain == with_nulls
    for key in set(keys) - set(NULLS[path]):
        assert {"type": "null"} in keys[key].get("anyOf", [{"type": "null"}]), key


def test_each_answer_says_when_it_was_made(client, service):
    service.created = 5
    before = int(time.time())
    answer = post(client, "/v1/completions", {"prompt": "x"})
    assert before <= answer["created"] <= time.time()


def test_the_one_model_is_found_by_its_name(client, service):
    service.name = "org/tiny"
    (listed,) = client.get("/v1/models").get_json()["data"]
    assert listed["route"]["decoding"] == "fused layers"
    assert client.get("/v1/models/org/tiny").get_json() == listed
    missing = client.get("/v1/models/other")
    assert missing.status_code == 404
    assert "no model other; this server has org/tiny" in missing.get_json()["error"]["message"]


def test_an_end_token_is_passed_over_where_asked(client_of, tiny_engine):
    client = client_of(scripted(tiny_engine, "a</s>b"))
    choice = complete(client, "x", ignore_eos=True, max_tokens=3, logprobs=0)
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"]["tokens"] == ["a", "", "b"]
