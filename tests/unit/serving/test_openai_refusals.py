"""What OpenAI's routes refuse, by the client's own names of things."""

import pytest
from support.http_client import TALK, post

WRONG_COMPLETIONS = [
    ({}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt.1"),
    ({"prompt": [["a"]]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": [10**9]}, "prompt"),
    ({"prompt": ["a"] * 65}, "prompt"),  # above serve.max_waiting
    ({"prompt": ["a", "b"], "stream": True}, "prompt"),
    ({"prompt": "a", "n": 0}, "n"),
    ({"prompt": "a", "n": 5}, "n"),  # above serve.max_rows
    ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ({"prompt": "a", "max_tokens": 51}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 10**6}, "max_tokens"),
    ({"prompt": "a", "stop": ["x"] * 1000}, "stop"),
    ({"prompt": "a", "stop": ["x", 5]}, "stop.1"),
    ({"prompt": "a", "stop": {}}, "stop"),
    ({"prompt": "a", "best_of": 3}, "best_of"),
    ({"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias"),
    ({"prompt": "a", "decoding": {"relative_top": 0.2}}, "decoding"),
    ({"prompt": "a", "foo": 1}, "foo"),
    ({"prompt": "a", "\ud800": 1}, "?"),
    ({"prompt": "a", "decoding": {"\ud800": 1}}, "decoding"),
    ({"prompt": "a", "x" * 10**6: 1}, "x" * 60),
    ({"prompt": "a", "min_tokens": 5}, "min_tokens"),
    ({"prompt": "a", "min_p": 1.1}, "min_p"),
    ({"prompt": "a", "repetition_penalty": 1e-300}, "repetition_penalty"),
    ({"prompt": "a", "temperature": 1e308}, "temperature"),
    ({"prompt": "a", "stream_options": {"continuous_usage_stats": True}}, "stream_options.cont"),
]
WRONG_CHATS = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": TALK, "tools": [{}]}, "tools"),
    ({"messages": TALK, "response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": TALK, "deadline_s": 0}, "deadline_s"),
    ({"messages": TALK, "top_logprobs": 2}, "top_logprobs"),
    ({"messages": TALK, "top_logprobs": 2, "logprobs": False}, "top_logprobs"),
    ({"messages": TALK, "max_tokens": 51}, "max_tokens"),
    ({"messages": TALK, "max_completion_tokens": 51}, "max_completion_tokens"),
    ({"messages": [{"role": "user", "content": "x" * 300}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "messages.0.tool_calls"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        *[("/v1/completions", body, field) for body, field in WRONG_COMPLETIONS],
        *[("/v1/chat/completions", body, field) for body, field in WRONG_CHATS],
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_field(client, path, body, field):
    status = 413 if "x" * 300 in str(body) and field == "messages" else 400
    error = post(client, path, body, status=status)["error"]
    assert error["field"].startswith(field)
    assert error["message"]
    assert len(error["message"]) < 300


@pytest.mark.parametrize(
    ("path", "key", "name"),
    [
        ("/process", "max_tokens", "max_new_tokens"),
        ("/process", "stop", "stop_sequences"),
        ("/process", "n", "num_return_sequences"),
        ("/v1/completions", "max_new_tokens", "max_tokens"),
        ("/v1/completions", "stop_sequences", "stop"),
        ("/v1/chat/completions", "max_new_tokens", "max_tokens"),
    ],
)
def test_another_routes_word_is_refused_with_this_routes(client, path, key, name):
    body = {"messages": TALK} if "chat" in path else {"prompt": "x"}
    error = post(client, path, body | {key: 3}, status=400)["error"]
    assert error["field"] == key
    assert f"it is called {name} here" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/process", {"num_return_sequences": 1, "num_samples": 2}, "num_return_sequences"),
        ("/process", {"num_samples": 2, "num_return_sequences": 2}, "num_return_sequences"),
        ("/tokenize", {"text": "secret", "content": "secret"}, "text and content"),
        ("/tokenize", {"content": "secret"}, "content and prompt"),
    ],
)
def test_one_thing_under_two_names_is_refused_with_both(client, path, body, names):
    if path == "/process" or "text" not in body:
        body = body | {"prompt": "secret"}
    error = post(client, path, body, status=400)["error"]
    assert error["field"] in body
    assert names in error["message"]
    assert "secret" not in error["message"]


def test_a_neutral_value_of_what_is_not_supported_is_taken(client):
    neutral = {
        "presence_penalty": 0.0,
        "logit_bias": {},
        "suffix": "",
        "min_tokens": 0,
        "best_of": 1,
    }
    ignored = {"user": "u", "metadata": {"a": "b"}, "service_tier": "auto"}
    asked = {"prompt": "x", "max_tokens": 3}
    plain, answered = (
        post(client, "/v1/completions", asked | more)["choices"] for more in ({}, neutral | ignored)
    )
    assert plain == answered


def test_very_many_unknown_keys_are_one_short_error(client):
    body = {"prompt": "x"} | {f"k{i}": 1 for i in range(90_000)}
    error = post(client, "/v1/completions", body, status=400)["error"]
    assert error["field"] == "k0"
