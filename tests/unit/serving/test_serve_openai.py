import json

import jinja2
import pytest
from support.http_client import post

from effchal.config import PromptConfig
from effchal.decoding.sampling import SamplingParams
from effchal.prompts import PromptEncoder, Turn

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


def alone(service, ids, **params):
    service.scheduler.stop()
    return service.engine.complete(ids, SamplingParams(**{"max_new_tokens": 5} | params))


def events(response):
    lines = response.get_data(as_text=True).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_completion_continues_text_as_it_is(client, service):
    answer = post(
        client, "/v1/completions", {"model": "anything", "prompt": "hello", "max_tokens": 7}
    )
    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"], choice["logprobs"]) == (
        "text_completion",
        "tiny",
        None,
    )
    ids = service.encoder.bos_ids + service.encoder.text_ids("hello")
    assert answer["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": 7,
        "total_tokens": len(ids) + 7,
    }
    expected = alone(service, ids, max_new_tokens=7)
    assert (choice["text"], choice["finish_reason"]) == (expected.text, expected.finish_reason)


def test_texts_and_token_ids_are_answered_in_their_order(client, service):
    texts = ["ab", "hello there", "x"]
    one_by_one = [
        post(client, "/v1/completions", {"prompt": text})["choices"][0]["text"] for text in texts
    ]
    together = post(client, "/v1/completions", {"prompt": texts, "n": 2, "temperature": 0})[
        "choices"
    ]
    assert [choice["text"] for choice in together] == [
        text for text in one_by_one for _ in range(2)
    ]
    assert [choice["index"] for choice in together] == list(range(6))
    ids = [service.encoder.bos_ids + service.encoder.text_ids(text) for text in texts]
    assert [
        c["text"] for c in post(client, "/v1/completions", {"prompt": ids})["choices"]
    ] == one_by_one
    assert (
        post(client, "/v1/completions", {"prompt": ids[0]})["choices"][0]["text"] == one_by_one[0]
    )


def test_log_likelihoods_as_lm_eval_asks_for_them(client, service):
    ids = service.encoder.text_ids("naïve text")
    body = {
        "prompt": [ids, ids[:4]],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    choices = post(client, "/v1/completions", body)["choices"]
    for choice, row in zip(choices, (ids, ids[:4]), strict=True):
        told = choice["logprobs"]
        assert len(told["tokens"]) == len(row) + 1
        assert told["token_logprobs"][0] is None
        assert told["top_logprobs"][0] is None
        best = [max(top.values()) for top in told["top_logprobs"][1:]]
        assert all(
            value <= top for value, top in zip(told["token_logprobs"][1:], best, strict=True)
        )
        assert told["token_logprobs"][-1] == best[-1]  # the greedy token, to the bit
        assert told["text_offset"] == [
            len("".join(told["tokens"][:i])) for i in range(len(row) + 1)
        ]
        assert "".join(told["tokens"]) == choice["text"]
        assert told["base_logprobs"] == told["token_logprobs"]
    scored = post(client, "/v1/completions", body | {"max_tokens": 0})["choices"][0]["logprobs"]
    assert scored["token_logprobs"] == pytest.approx(
        choices[0]["logprobs"]["token_logprobs"][:-1], abs=1e-5
    )


def test_samples_of_one_prompt_differ_and_a_seed_repeats_them(client):
    body = {"prompt": "x", "n": 3, "temperature": 1.5, "seed": 11, "max_tokens": 20}
    first, second = (
        [c["text"] for c in post(client, "/v1/completions", body)["choices"]] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 3


def test_a_chat_goes_into_the_template(client, service):
    body = {
        "model": "m",
        "messages": TALK,
        "logprobs": True,
        "top_logprobs": 2,
        "max_completion_tokens": 6,
    }
    answer = post(client, "/v1/chat/completions", body)
    (choice,) = answer["choices"]
    content = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == choice["message"]["content"]
    assert all(len(token["top_logprobs"]) <= 2 for token in content)
    assert all(
        token["logprob"] == max(top["logprob"] for top in token["top_logprobs"])
        for token in content
    )
    ids = service.encoder.prompt_ids([Turn("system", "Be brief."), Turn("user", "hello")])
    expected = alone(service, ids, max_new_tokens=6)
    assert (choice["message"], choice["finish_reason"]) == (
        {"role": "assistant", "content": expected.text},
        expected.finish_reason,
    )


def test_content_in_parts_is_one_text(client):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    whole = post(
        client, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}
    )
    again = post(client, "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert whole["choices"] == again["choices"]


@pytest.mark.parametrize("n", [1, 3])
def test_a_streamed_chat_adds_up_to_the_whole_one(client, n):
    body = {
        "messages": TALK,
        "max_tokens": 20,
        "n": n,
        "temperature": 1.0,
        "seed": 4,
        "logprobs": True,
    }
    whole = post(client, "/v1/chat/completions", body)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(client.post("/v1/chat/completions", json=body | options))
    assert chunks.pop()["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [
            chunk["choices"][0]
            for chunk in chunks
            if chunk["choices"][0]["index"] == choice["index"]
        ]
        assert mine[0]["delta"]["role"] == "assistant"
        assert (
            "".join(part["delta"]["content"] or "" for part in mine) == choice["message"]["content"]
        )
        told = [token for part in mine if part["logprobs"] for token in part["logprobs"]["content"]]
        assert [token["token"] for token in told] == [
            token["token"] for token in choice["logprobs"]["content"]
        ]
        assert [part["finish_reason"] for part in mine][-1] == choice["finish_reason"]
        assert not any(part["finish_reason"] for part in mine[:-1])


def test_a_streamed_completion_adds_up_to_the_whole_one(client):
    body = {"prompt": "a b c", "max_tokens": 12, "logprobs": 2, "echo": True, "stop": ["qq"]}
    whole = post(client, "/v1/completions", body)["choices"][0]
    parts = [
        chunk["choices"][0]
        for chunk in events(client.post("/v1/completions", json=body | {"stream": True}))
    ]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for key in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
        told = [value for part in parts for value in part["logprobs"][key]]
        if key == "token_logprobs":
            assert told[1:] == pytest.approx(whole["logprobs"][key][1:], abs=1e-4)
        elif key != "top_logprobs":
            assert told == whole["logprobs"][key]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": [[]]}, "prompt"),
        ("/v1/completions", {"prompt": [1, "a"]}, "prompt"),
        ("/v1/completions", {"prompt": [10**9]}, "prompt"),
        ("/v1/completions", {"prompt": ["a"] * 65}, "prompt"),  # above serve.max_waiting
        ("/v1/completions", {"prompt": ["a", "b"], "stream": True}, "prompt"),
        ("/v1/completions", {"prompt": "a", "n": 0}, "n"),
        ("/v1/completions", {"prompt": "a", "n": 5}, "n"),  # above serve.max_rows
        ("/v1/completions", {"prompt": "a", "logprobs": 21}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 51}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "stop": ["x"] * 65}, "stop"),
        ("/v1/completions", {"prompt": "a", "best_of": 3}, "body"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"5": 1}}, "body"),
        ("/v1/completions", {"prompt": "a", "decoding": {"relative_top": 0.2}}, "decoding"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages.0.role",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": None}]},
            "messages.0.content",
        ),
        ("/v1/chat/completions", {"messages": TALK, "tools": [{}]}, "body"),
        (
            "/v1/chat/completions",
            {"messages": TALK, "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ("/v1/chat/completions", {"messages": TALK, "deadline_s": 0}, "deadline_s"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
    ],
)
def test_what_cannot_be_honoured_is_400_with_the_field(client, path, body, field):
    error = post(client, path, body, status=400)["error"]
    assert error["field"].startswith(field)
    assert error["message"]


def test_tokenizers_of_other_clients_see_special_tokens(client, service):
    info = client.get("/tokenizer_info").get_json()
    eos = info["eos_token"]
    assert post(client, "/tokenize", {"prompt": eos})["tokens"] == [service.encoder.eos_id]
    assert len(post(client, "/tokenize", {"text": eos})["tokens"]) > 1
    both = post(client, "/tokenize", {"prompt": "ab", "add_special_tokens": True})
    assert both["tokens"] == service.encoder.bos_ids + service.encoder.text_ids("ab")
    assert both["count"] == len(both["tokens"])
    tokens = [*service.encoder.text_ids("ab"), service.encoder.eos_id]
    assert post(client, "/detokenize", {"tokens": tokens})["prompt"] == "ab" + eos
    assert post(client, "/decode", {"tokens": tokens})["text"] == "ab"


def test_the_chat_template_told_to_clients_is_the_one_of_the_training(client, service):
    template = client.get("/tokenizer_info").get_json()["chat_template"]
    turns = [
        *[
            Turn("system", "Be {{ brief }}."),
            Turn("user", "a {content}"),
            Turn("assistant", "b"),
            Turn("user", "c"),
        ],
        *[Turn("assistant", "d\n"), Turn("user", "")],
    ]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    for count in (2, 4, 6):
        text = (
            jinja2.Environment()
            .from_string(template)
            .render(messages=messages[:count], add_generation_prompt=True)
        )
        ids = service.encoder.prompt_ids(turns[:count])
        assert service.encoder.raw_ids(text) == ids


def test_templates_may_hold_quotes_braces_and_special_tokens(tiny_engine):
    cfg = PromptConfig(
        system="<s>{{ 'x' }} {content}\n", user='"{%{content}%}\\n"', assistant="'{content}'"
    )
    encoder = PromptEncoder(tiny_engine.tokenizer, cfg)
    turns = [Turn("system", "s"), Turn("user", "u")]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = jinja2.Environment().from_string(encoder.chat_template()).render(messages=messages)
    assert text == tiny_engine.tokenizer.decode(encoder.prompt_ids(turns))


def test_the_one_model_is_listed(client):
    (model,) = client.get("/v1/models").get_json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 8192)


def test_decoding_can_be_changed_where_the_server_allows_it(client, service):
    service.cfg.serve.allow_decoding_override = True
    dola = {"method": "dola", "premature_layers": [0, 1], "selector": "official", "exit_norm": True}
    body = {"prompt": "hello", "logprobs": 0, "max_tokens": 8}
    told = post(client, "/v1/completions", body | {"decoding": dola})["choices"][0]["logprobs"]
    assert told["base_logprobs"] != told["token_logprobs"]
    plain = post(client, "/v1/completions", body)["choices"][0]["logprobs"]
    assert plain["base_logprobs"] == plain["token_logprobs"]
    text = client.get("/metrics").get_data(as_text=True)
    counts = [
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("effchal_dola_layer_total")
    ]
    assert sum(counts) >= 8
    for wrong, message in [
        ({"metod": "dola"}, "unknown key metod; the nearest known key is method"),
        ({"method": "dola"}, "decoding.premature_layers must be"),
        (dola | {"premature_layers": [0, 7]}, "premature layers are 0..1"),
        ({"relative_top": "${oc.env:HOME}"}, "plain values"),
        ({"temperature": "hot"}, "temperature"),
        ({"premature_layers": {"a": [1, {}]}, "method": "sled"}, "premature_layers"),
    ]:
        error = post(client, "/v1/completions", body | {"decoding": wrong}, status=400)["error"]
        assert error["field"] == "decoding"
        assert message in error["message"]


def test_an_answer_can_end_at_its_first_line_where_no_stop_is_named(client, service):
    service.cfg.decoding.end_at_first_line = True
    body = {"prompt": "x", "temperature": 3.0, "seed": 5, "max_tokens": 50}
    service.cfg.decoding.end_at_first_line = False
    for seed in range(40):
        whole = post(client, "/v1/completions", body | {"seed": seed})["choices"][0]["text"]
        if "\n" in whole.strip():
            break
    service.cfg.decoding.end_at_first_line = True
    cut = post(client, "/v1/completions", body | {"seed": seed})["choices"][0]
    blank = len(whole) - len(whole.lstrip())
    assert cut["text"] == whole[: whole.index("\n", blank)]
    assert cut["finish_reason"] == "stop"
    assert (
        post(client, "/v1/completions", body | {"seed": seed, "stop": ["zzzz"]})["choices"][0][
            "text"
        ]
        == whole
    )
