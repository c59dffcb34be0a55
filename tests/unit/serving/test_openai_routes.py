"""POST /v1/completions and /v1/chat/completions, whole answers."""

import pytest
from support.http_client import TALK, post

from effchal.decoding.sampling import SamplingParams
from effchal.prompts.encoder import Turn


def alone(service, ids, **params):
    model = service.loaded()
    model.scheduler.stop()
    return model.engine.complete(ids, SamplingParams(**{"max_new_tokens": 5} | params))


def test_a_completion_continues_text_as_it_is(client, service):
    body = {"model": "anything", "prompt": "hello", "max_tokens": 7}
    answer = post(client, "/v1/completions", body)
    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    assert choice["logprobs"] is None
    ids = service.loaded().encoder.bos_ids + service.loaded().encoder.text_ids("hello")
    usage = {"prompt_tokens": len(ids), "completion_tokens": 7, "total_tokens": len(ids) + 7}
    assert answer["usage"] == usage
    expected = alone(service, ids, max_new_tokens=7)
    assert (choice["text"], choice["finish_reason"]) == (expected.text, expected.finish_reason)


def test_texts_and_token_ids_are_answered_in_their_order(client, service):
    texts, encoder = ["ab", "hello there", "x"], service.loaded().encoder

    def choices(prompt, **keys):
        return post(client, "/v1/completions", {"prompt": prompt, **keys})["choices"]

    one_by_one = [choices(text)[0]["text"] for text in texts]
    together = choices(texts, n=2, temperature=0)
    assert [choice["text"] for choice in together] == [each for each in one_by_one for _ in (0, 1)]
    assert [choice["index"] for choice in together] == list(range(6))
    ids = [encoder.bos_ids + encoder.text_ids(text) for text in texts]
    assert [choice["text"] for choice in choices(ids)] == one_by_one
    assert choices(ids[0])[0]["text"] == one_by_one[0]


def test_log_likelihoods_as_lm_eval_asks_for_them(client, service):
    ids = service.loaded().encoder.text_ids("naïve text")
    body = {"prompt": [ids, ids[:4]], "temperature": 0, "max_tokens": 1}
    body |= {"logprobs": 1, "seed": 1234, "echo": True}
    choices = post(client, "/v1/completions", body)["choices"]
    for choice, row in zip(choices, (ids, ids[:4]), strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["tokens"]) == len(row) + 1
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        best = [max(top.values()) for top in logprobs["top_logprobs"][1:]]
        pairs = zip(logprobs["token_logprobs"][1:], best, strict=True)
        assert all(value <= top for value, top in pairs)
        assert logprobs["token_logprobs"][-1] == best[-1]  # the greedy token, to the bit
        starts = [len("".join(logprobs["tokens"][:i])) for i in range(len(row) + 1)]
        assert logprobs["text_offset"] == starts
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert logprobs["base_logprobs"] == logprobs["plain_logprobs"] == logprobs["token_logprobs"]
    scored = post(client, "/v1/completions", body | {"max_tokens": 0})["choices"][0]["logprobs"]
    expected = choices[0]["logprobs"]["token_logprobs"][:-1]
    assert scored["token_logprobs"] == pytest.approx(expected, abs=1e-5)


def test_samples_of_one_prompt_differ_and_a_seed_repeats_them(client):
    body = {"prompt": "x", "n": 3, "temperature": 1.5, "seed": 11, "max_tokens": 20}
    first, second = (
        [c["text"] for c in post(client, "/v1/completions", body)["choices"]] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 3


def test_a_chat_goes_into_the_template(client, service):
    body = {"model": "m", "messages": TALK, "max_completion_tokens": 6}
    body |= {"logprobs": True, "top_logprobs": 2}
    answer = post(client, "/v1/chat/completions", body)
    (choice,) = answer["choices"]
    content = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == choice["message"]["content"]
    assert all(len(token["top_logprobs"]) <= 2 for token in content)
    assert all(token["plain_logprob"] == token["base_logprob"] for token in content)
    best = [max(top["logprob"] for top in token["top_logprobs"]) for token in content]
    assert [token["logprob"] for token in content] == best
    ids = service.loaded().encoder.prompt_ids([Turn("system", "Be brief."), Turn("user", "hello")])
    expected = alone(service, ids, max_new_tokens=6)
    assert choice["message"] == {"role": "assistant", "content": expected.text}
    assert choice["finish_reason"] == expected.finish_reason


def test_content_in_parts_is_one_text(client):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    whole, again = (
        post(client, "/v1/chat/completions", {"messages": [{"role": "user", "content": content}]})
        for content in ("hello", parts)
    )
    assert whole["choices"] == again["choices"]


def test_an_answer_can_end_at_its_first_line_where_no_stop_is_named(client, service):
    body = {"prompt": "x", "temperature": 3.0, "max_tokens": 50}

    def answer(seed, **keys):
        return post(client, "/v1/completions", body | {"seed": seed, **keys})["choices"][0]

    service.cfg.decoding.end_at_first_line = False
    for seed in range(40):
        whole = answer(seed)["text"]
        if "\n" in whole.strip():
            break
    service.cfg.decoding.end_at_first_line = True
    cut = answer(seed)
    spaces = len(whole) - len(whole.lstrip())
    assert cut["text"] == whole[: whole.index("\n", spaces)]
    assert cut["finish_reason"] == "stop"
    assert answer(seed, stop=["zzzz"])["text"] == whole
