"""POST /v1/completions and /v1/chat/completions, whole answers."""

import pytest
from support.http_client import TALK, post

from effchal.decoding.sampling import SamplingParams
from effchal.prompts import Turn


def alone(service, ids, **params):
    model = service.loaded()
    model.scheduler.stop()
    return model.engine.complete(ids, SamplingParams(**{"max_new_tokens": 5} | params))


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
    ids = service.loaded().encoder.bos_ids + service.loaded().encoder.text_ids("hello")
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
    ids = [
        service.loaded().encoder.bos_ids + service.loaded().encoder.text_ids(text) for text in texts
    ]
    assert [
        c["text"] for c in post(client, "/v1/completions", {"prompt": ids})["choices"]
    ] == one_by_one
    assert (
        post(client, "/v1/completions", {"prompt": ids[0]})["choices"][0]["text"] == one_by_one[0]
    )


def test_log_likelihoods_as_lm_eval_asks_for_them(client, service):
    ids = service.loaded().encoder.text_ids("naïve text")
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
        logprobs = choice["logprobs"]
        assert len(logprobs["tokens"]) == len(row) + 1
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        best = [max(top.values()) for top in logprobs["top_logprobs"][1:]]
        assert all(
            value <= top for value, top in zip(logprobs["token_logprobs"][1:], best, strict=True)
        )
        assert logprobs["token_logprobs"][-1] == best[-1]  # the greedy token, to the bit
        assert logprobs["text_offset"] == [
            len("".join(logprobs["tokens"][:i])) for i in range(len(row) + 1)
        ]
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert logprobs["base_logprobs"] == logprobs["plain_logprobs"] == logprobs["token_logprobs"]
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
    assert all(token["plain_logprob"] == token["base_logprob"] for token in content)
    assert all(
        token["logprob"] == max(top["logprob"] for top in token["top_logprobs"])
        for token in content
    )
    ids = service.loaded().encoder.prompt_ids([Turn("system", "Be brief."), Turn("user", "hello")])
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


def test_decoding_can_be_changed_where_the_server_allows_it(client, service):
    service.cfg.serve.allow_decoding_override = True
    dola = {"method": "dola", "premature_layers": [0, 1], "selector": "official", "exit_norm": True}
    body = {"prompt": "hello", "logprobs": 0, "max_tokens": 8}
    logprobs = post(client, "/v1/completions", body | {"decoding": dola})["choices"][0]["logprobs"]
    assert logprobs["base_logprobs"] == logprobs["plain_logprobs"] != logprobs["token_logprobs"]
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
