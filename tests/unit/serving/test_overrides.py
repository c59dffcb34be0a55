"""Decoding that a request chooses for itself: `decoding`, penalties and shares of its own."""

import pytest
from support.http_client import post

from effchal.decoding.sampling import SamplingParams

BODY = {"prompt": "hello", "logprobs": 0, "max_tokens": 8}
DOLA = {"method": "dola", "premature_layers": [0, 1], "selector": "official", "exit_norm": True}
NESTED = [[[[[[[[1]]]]]]]]
for _ in range(900):
    NESTED = [NESTED]


def logprobs_of(client, **keys):
    return post(client, "/v1/completions", BODY | keys)["choices"][0]["logprobs"]


def test_decoding_can_be_changed_where_the_server_allows_it(client, service):
    service.cfg.serve.allow_decoding_override = True
    logprobs = logprobs_of(client, decoding=DOLA)
    assert logprobs["base_logprobs"] == logprobs["plain_logprobs"] != logprobs["token_logprobs"]
    plain = logprobs_of(client)
    assert plain["base_logprobs"] == plain["token_logprobs"]
    text = client.get("/metrics").get_data(as_text=True)
    counts = [
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("effchal_dola_layer_total")
    ]
    assert sum(counts) >= 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metod": "dola"}, "unknown key metod; the nearest known key is method"),
        ({"k" * 10**6: 1}, "unknown key kkk"),
        ({"\ud800": 1}, r"unknown key \ud800;"),
        ({f"k{i}": 1 for i in range(90_000)}, "unknown key k0"),
        ({"method": "dola"}, "decoding.premature_layers must be low, high or a list"),
        (DOLA | {"premature_layers": [0, 7]}, "premature layers are 0..1"),
        ({"method": "${oc.env:HOME}"}, "decoding.method must be one of greedy, sample"),
        ({"temperature": "hot"}, "decoding.temperature must be a number, got 'hot'"),
        ({"temperature": "???"}, "decoding.temperature must be a number, got '???'"),
        ({"selector": "???"}, "decoding.selector must be one of jsd"),
        ({"premature_layers": "???"}, "decoding.premature_layers must be"),
        ({"premature_layers": {"a": [1, {}]}, "method": "sled"}, "premature_layers must be"),
        ({"premature_layers": NESTED}, "decoding.premature_layers must be"),
        ({"premature_layers": [0] * 200_000}, "decoding.premature_layers must be"),
        ({"temperature": NESTED}, "decoding.temperature must be a number"),
        ({"temperature": {"a": 1}}, "decoding.temperature must be a number"),
        ({"temperature": 1e308}, "decoding.temperature must be above 0 and at most 100"),
        ({"temperature": 10**400}, "decoding.temperature must be above 0 and at most 100"),
        ({"temperature": True}, "decoding.temperature must be a number, got True"),
        ({"sled_rate": 1e308}, "decoding.sled_rate must be in [0, 100]"),
        ({"sled_rate": float("inf")}, "decoding.sled_rate must be in [0, 100], got inf"),
        ({"repetition_penalty": 1e-300}, "decoding.repetition_penalty must be in [0.01, 100]"),
        ({"sled_top_k": 10**30}, "decoding.sled_top_k must be in 1..2147483647"),
        ({"max_new_tokens": 1.5}, "decoding.max_new_tokens must be a whole number, got 1.5"),
        ({"exit_norm": 1}, "decoding.exit_norm must be true or false, got 1"),
    ],
)
def test_a_wrong_override_is_one_short_line(client, service, wrong, message):
    service.cfg.serve.allow_decoding_override = True
    error = post(client, "/v1/completions", BODY | {"decoding": wrong}, status=400)["error"]
    assert error["field"] == "decoding"
    assert message in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "extreme",
    [
        {"method": "sled", "premature_layers": [0], "sled_rate": 100},
        {"method": "sled", "premature_layers": [0], "sled_top_k": 2**31 - 1},
        DOLA | {"repetition_penalty": 0.01},
        DOLA | {"repetition_penalty": 100, "min_tokens_to_keep": 2**31 - 1, "relative_top": 0},
        {"method": "sample", "temperature": 100, "top_p": 5e-324},
        {"method": "sample", "temperature": 5e-324},
    ],
)
def test_extremes_within_the_bounds_are_answered(client, service, extreme):
    service.cfg.serve.allow_decoding_override = True
    assert len(logprobs_of(client, decoding=extreme)["tokens"]) == 8


def test_a_null_in_an_override_is_the_bundles_value(client, service):
    service.cfg.serve.allow_decoding_override = True
    nothing = {"temperature": None, "method": None, "premature_layers": None}
    assert logprobs_of(client, decoding=nothing) == logprobs_of(client)


def test_a_requests_penalty_replaces_the_bundles(client, service):
    plain = logprobs_of(client)
    service.cfg.decoding.repetition_penalty = 1.7
    penalised = logprobs_of(client)
    assert penalised["token_logprobs"] != penalised["base_logprobs"]
    assert logprobs_of(client, repetition_penalty=1.0) == plain
    service.cfg.decoding.repetition_penalty = 1.0
    assert logprobs_of(client, repetition_penalty=1.7) == penalised


def test_min_p_leaves_only_probable_tokens(client, service):
    sampled = {"temperature": 5.0, "seed": 3, "max_tokens": 20}
    plain = post(client, "/v1/completions", BODY | {"max_tokens": 20})["choices"]
    only_best = post(client, "/v1/completions", BODY | sampled | {"min_p": 1.0})["choices"]
    assert only_best == plain
    assert post(client, "/v1/completions", BODY | sampled)["choices"] != plain


def test_a_sample_is_within_min_p_of_the_best_token():
    import torch

    from effchal.decoding.sampling import sample

    logprobs = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(max_new_tokens=1, temperature=1.0, min_p=0.3)
    drawn = {int(sample(logprobs[None], [params], [generator])) for _ in range(300)}
    assert drawn == {0, 1, 2}
