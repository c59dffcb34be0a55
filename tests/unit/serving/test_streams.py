"""Streamed answers of OpenAI's routes."""

import json

import pytest
from support.http_client import TALK, post


def events(response):
    lines = response.get_data(as_text=True).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.mark.parametrize("n", [1, 3])
def test_a_streamed_chat_adds_up_to_the_whole_one(client, n):
    body = {"messages": TALK, "max_tokens": 20, "n": n, "temperature": 1.0, "seed": 4}
    body["logprobs"] = True
    whole = post(client, "/v1/chat/completions", body)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(client.post("/v1/chat/completions", json=body | options))
    assert chunks.pop()["usage"] == whole["usage"]
    for choice in whole["choices"]:
        parts = [chunk["choices"][0] for chunk in chunks]
        mine = [part for part in parts if part["index"] == choice["index"]]
        assert mine[0]["delta"]["role"] == "assistant"
        text = "".join(part["delta"]["content"] or "" for part in mine)
        assert text == choice["message"]["content"]
        logprobs = [part["logprobs"]["content"] for part in mine if part["logprobs"]]
        streamed = [token["token"] for tokens in logprobs for token in tokens]
        assert streamed == [token["token"] for token in choice["logprobs"]["content"]]
        assert [part["finish_reason"] for part in mine][-1] == choice["finish_reason"]
        assert not any(part["finish_reason"] for part in mine[:-1])


def test_a_streamed_completion_adds_up_to_the_whole_one(client):
    body = {"prompt": "a b c", "max_tokens": 12, "logprobs": 2, "echo": True, "stop": ["qq"]}
    whole = post(client, "/v1/completions", body)["choices"][0]
    chunks = events(client.post("/v1/completions", json=body | {"stream": True}))
    parts = [chunk["choices"][0] for chunk in chunks]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for key in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
        streamed = [value for part in parts for value in part["logprobs"][key]]
        if key == "token_logprobs":
            assert streamed[1:] == pytest.approx(whole["logprobs"][key][1:], abs=1e-4)
        elif key != "top_logprobs":
            assert streamed == whole["logprobs"][key]
