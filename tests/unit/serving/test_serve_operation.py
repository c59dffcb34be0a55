"""Around the answers: deadlines, tokens, logs, metrics, the OpenAPI document, random bodies."""

import json
import random
import subprocess
import sys

import pytest
from support.http_client import post

from effchal.config import ServeConfig
from effchal.serving import memory
from effchal.serving.app import ROUTES, make_app
from effchal.serving.metrics import Metrics
from effchal.serving.scheduler import Scheduler


def test_a_deadline_ends_the_wait_with_504(client, service):
    service.cfg.serve.max_new_tokens = 8000
    # The greedy answer to this prompt repeats one token for ever.
    endless = {"prompt": "p", "max_tokens": 8000, "temperature": 0, "deadline_s": 0.05}
    error = post(client, "/v1/completions", endless, status=504)
    assert error["error"]["field"] == "deadline_s"
    streamed = client.post("/v1/completions", json=endless | {"stream": True})
    assert '"deadline_s"' in streamed.get_data(as_text=True)
    assert post(client, "/v1/completions", {"prompt": "x"})["choices"]
    assert not service.loaded().engine.rows


@pytest.mark.parametrize(("left_gib", "warns"), [(0.9, True), (1.5, False)])
def test_a_server_warns_at_its_start_of_memory_that_may_not_do(
    tiny_engine, caplog, monkeypatch, left_gib, warns
):
    monkeypatch.setattr(memory, "free_host_memory", lambda: int(left_gib * memory.GIB))
    cfg = ServeConfig(cache_gib=0.01, prefix_gib=1.0)
    Scheduler(tiny_engine, cfg, Metrics()).stop()
    assert ("keys and values may take 1.0 GiB" in caplog.text) == warns


def test_a_bearer_token_guards_everything_but_health(service, monkeypatch):
    monkeypatch.setenv("EFFCHAL_TOKEN", "sesame")
    client = make_app(service).test_client()
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}):
        assert client.get("/v1/models", headers=headers).status_code == 401
        assert client.post("/process", json={"prompt": "x"}, headers=headers).status_code == 401
    headers = {"Authorization": "Bearer sesame"}
    assert client.post("/process", json={"prompt": "x"}, headers=headers).status_code == 200


def test_the_access_log_holds_prompts_only_when_asked(client, service, monkeypatch):
    import effchal.serving.access as access

    lines = []
    monkeypatch.setattr(access.access_log, "info", lambda line: lines.append(json.loads(line)))
    post(client, "/v1/completions", {"prompt": "hello", "max_tokens": 3})
    client.get("/etc/passwd").close()
    service.cfg.serve.log_prompts = True
    post(client, "/process", {"prompt": "secret", "max_new_tokens": 3})
    body = {"prompt": "x", "max_tokens": 3, "stream": True}
    with client.post("/v1/completions", json=body) as response:
        response.get_data()
    first, second, third, streamed = lines
    assert (first["path"], first["status"]) == ("/v1/completions", 200)
    assert (first["prompt_tokens"], first["new_tokens"]) == (5, 3)
    assert "hello" not in json.dumps(first)
    assert (second["path"], second["status"]) == ("other", 404)
    assert third["prompt"] == "secret"
    assert (streamed["prompt"], streamed["new_tokens"], len(streamed["answers"])) == ("x", 3, 1)
    assert streamed["finish_reasons"] == ["length"]


def test_metrics_count_requests_and_tokens(client):
    post(client, "/v1/completions", {"prompt": "hello", "max_tokens": 3})
    post(client, "/v1/completions", {"prompt": 5}, status=400)
    text = client.get("/metrics").get_data(as_text=True)
    assert 'effchal_requests_total{path="/v1/completions",status="200"} 1.0' in text
    assert 'effchal_requests_total{path="/v1/completions",status="400"} 1.0' in text
    assert "effchal_generated_tokens_total 3.0" in text
    assert "effchal_queue_depth 0.0" in text
    assert 'effchal_batch_rows_bucket{le="1.0"} 2.0' in text


def test_the_openapi_document_covers_every_route(client, service):
    document = client.get("/openapi.json").get_json()
    routes = {
        rule.rule for rule in make_app(service).url_map.iter_rules() if rule.endpoint != "static"
    }
    assert set(document["paths"]) == {rule.replace("<path:id>", "{id}") for rule in routes}
    (parameter,) = document["paths"]["/v1/models/{id}"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"]) == ("id", "path")
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]
    for path, event in (
        ("/v1/completions", "CompletionResponse"),
        ("/v1/chat/completions", "ChatChunk"),
    ):
        answers = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert event in json.dumps(answers["text/event-stream"])


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Token", "plain_logprob", "base_logprob"),
        ("ChatLogprob", "plain_logprob", "base_logprob"),
        ("Logprobs", "plain_logprobs", "base_logprobs"),
    ],
)
def test_the_openapi_document_calls_earlier_names_deprecated(client, name, old, new):
    schema = client.get("/openapi.json").get_json()["components"]["schemas"][name]
    assert {old, new} <= set(schema["required"])
    assert schema["properties"][old]["deprecated"]
    assert f"use {new}" in schema["properties"][old]["description"]
    assert "deprecated" not in schema["properties"][new]


KEYS = sorted(
    {key for route in ROUTES if route.body for key in route.body.model_fields}
    | {"content", "role", "num_samples"}
)
NUMBERS = [0, 1, -1, 2**63, 10**400, 0.5, -0.0, 1e308]
TEXTS = ["", "a", "\ud800", "\0", "é" * 300, "漢\n"]
LISTS = [[], [1], ["a"], [[1, 2]], [[]], [None], [3, 4, 5]]
MESSAGES = [[{"role": "user", "content": content}] for content in ("hi", [{}])]
OBJECTS = [
    {},
    {"sled_rate": 1e308, "method": "sled", "premature_layers": [0]},
    {"repetition_penalty": 1e-300},
    {"relative_top": "???", "temperature": [[{}]]},
    {"a": 1},
    {"method": "dola", "premature_layers": [0]},
    {"premature_layers": "low"},
    {"include_usage": True},
]
VALUES = [None, True, *NUMBERS, *TEXTS, *LISTS, *MESSAGES, *OBJECTS]


@pytest.mark.integration
@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.body])
def test_no_body_is_a_fault_of_ours(client, service, path):
    service.cfg.serve.allow_decoding_override = True
    draw = random.Random(path)
    valid = {"prompt": "x", "text": "x", "tokens": [5], "messages": MESSAGES[0], "max_tokens": 2}
    seen = set()
    for _ in range(150):
        body = {key: draw.choice(VALUES) for key in draw.sample(KEYS, draw.randrange(5))}
        if draw.random() < 0.7:
            body = valid | body
        response = client.post(path, data=json.dumps(body))
        response.get_data()
        seen.add(response.status_code)
        assert response.status_code in (200, 400, 413, 504), (body, response.get_data())
    assert 400 in seen


ENDS_IN_THE_MIDDLE = """
import time
import torch
from effchal.config import ModelConfig, ServeConfig
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.model.load import load_base_model
from effchal.model.tokenizer import load_tokenizer
from effchal.serving.metrics import Metrics
from effchal.serving.queued import QueuedPrompt
from effchal.serving.scheduler import Scheduler

cfg = ModelConfig(name="builtin:tiny")
engine = Engine(load_base_model(cfg, torch.device("cpu")), load_tokenizer(cfg))
scheduler = Scheduler(engine, ServeConfig(), Metrics())
sampled = [SamplingParams(max_new_tokens=200, temperature=1.0)] * 8
scheduler.submit([QueuedPrompt([5, 6, 7], sampled) for _ in range(8)])
time.sleep(0.3)
print(engine.rows != [])
"""


@pytest.mark.integration
def test_a_process_that_ends_while_the_engine_works_ends_well():
    done = subprocess.run(
        [sys.executable, "-c", ENDS_IN_THE_MIDDLE], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
