"""What the server refuses, with which status, and what it survives."""

import json
import threading
import time
from dataclasses import replace

import pytest
import torch
from support.configs import compose_config
from support.http_client import helm_body
from support.random_models import CPU
from support.saved_adapters import save_bundle

from effchal.config import ConfigError, save_config
from effchal.decoding import engine as engine_module
from effchal.decoding.engine import Engine
from effchal.kernels.step_graphs import CudaRecording
from effchal.model import device as device_module
from effchal.model import load as load_module
from effchal.model_source import bundle_folder, check_model_source, inference_config, load_engine
from effchal.serving.app import make_app
from effchal.serving.service import Service

WRONG_PROCESS = [
    ({}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    (helm_body(max_new_tokens=-1), "max_new_tokens"),
    (helm_body(max_new_tokens="8"), "max_new_tokens"),
    (helm_body(max_new_tokens=51), "max_new_tokens"),
    (helm_body(temperature=-0.1), "temperature"),
    (helm_body(temperature="hot"), "temperature"),
    (helm_body(top_p=0), "top_p"),
    (helm_body(top_p=1.5), "top_p"),
    (helm_body(stop_sequences="###"), "stop_sequences"),
    (helm_body(stop_sequences=[5]), "stop_sequences.0"),
    (helm_body(echo_prompt="yes"), "echo_prompt"),
    (helm_body(num_return_sequences=0), "num_return_sequences"),
    (helm_body(seed=2**63), "seed"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        *[("/process", body, field) for body, field in WRONG_PROCESS],
        ("/tokenize", {}, "text"),
        ("/tokenize", {"text": ["a"]}, "text"),
        ("/tokenize", {"text": "a", "truncation": True, "max_length": -1}, "max_length"),
        ("/decode", {"tokens": "a"}, "tokens"),
        ("/decode", {"tokens": [-1]}, "tokens.0"),
        ("/decode", {"tokens": [1.5]}, "tokens.0"),
        ("/decode", {"tokens": [10**9]}, "tokens"),
        ("/decode", {"tokens": [10**30]}, "tokens"),
    ],
)
def test_wrong_types_and_values_are_400_with_the_field(client, path, body, field):
    response = client.post(path, data=json.dumps(body))
    assert response.status_code == 400, response.get_json()
    error = response.get_json()["error"]
    assert error["field"].startswith(field)
    assert error["message"]


NESTED, LONG = b"[" * 100_000, b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}"
NOT_A_NUMBER = [b'{"prompt": NaN}', b'{"prompt": "x", "top_p": NaN}']
NO_OBJECTS = [b"", b"{", b"[]", b"5", b'"x"', b"\xff", NESTED, LONG, *NOT_A_NUMBER]


@pytest.mark.parametrize("data", NO_OBJECTS)
def test_a_body_that_is_no_json_object_is_400(client, data):
    response = client.post("/process", data=data)
    assert response.status_code == 400
    assert response.get_json()["error"]["message"]


def test_a_prompt_that_is_too_long_is_413_with_both_numbers(client):
    response = client.post("/process", json=helm_body(prompt="x" * 300))
    assert response.status_code == 413
    message = response.get_json()["error"]["message"]
    assert "306 tokens; this server takes 200 (serve.max_prompt_tokens)" in message


def test_an_answer_that_would_run_past_the_models_positions_is_413(client, service):
    service.cfg.serve.max_prompt_tokens = service.cfg.serve.max_new_tokens = 10_000
    response = client.post("/process", json=helm_body(max_new_tokens=8190))
    assert response.status_code == 413
    message = response.get_json()["error"]["message"]
    assert "11 prompt tokens and 8190 new ones; this model holds 8192" in message


def test_a_huge_body_is_413_and_an_unknown_path_404_and_both_are_json(client):
    assert client.post("/process", data=b"x" * (9 << 20)).status_code == 413
    response = client.get("/nowhere")
    assert response.status_code == 404
    assert response.get_json()["error"]["message"]
    wrong_method = client.get("/process")
    assert wrong_method.status_code == 405
    assert set(wrong_method.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


def test_before_the_model_is_there_the_process_lives_but_is_not_ready(serving_cfg):
    client = make_app(Service(serving_cfg)).test_client()
    assert client.get("/health").status_code == 200
    for response in (
        client.get("/ready"),
        client.post("/process", json=helm_body()),
        client.post("/tokenize", json={}),
    ):
        assert response.status_code == 503
        assert response.headers["Retry-After"]
        assert "still loading" in response.get_json()["error"]["message"]


class Slow:
    """An engine that begins no prompt until `go` is set."""

    def __init__(self, engine):
        self._engine = engine
        self.go = threading.Event()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def begin(self, *prompt):
        self.go.wait(timeout=30)
        return self._engine.begin(*prompt)


def test_requests_queue_up_to_a_bound_and_tokenize_never_waits(serving_cfg, tiny_engine):
    serving_cfg.serve.max_waiting = 3
    service, slow = Service(serving_cfg), Slow(tiny_engine)
    service.set_ready(slow)
    app = make_app(service)
    answers = []

    def ask():
        answers.append(app.test_client().post("/process", json=helm_body()).status_code)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10
    while len(answers) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert answers == [503, 503]  # three may wait or run
    assert app.test_client().post("/tokenize", json={"text": "ab"}).status_code == 200
    assert app.test_client().get("/ready").status_code == 200
    slow.go.set()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 200, 200, 503, 503]
    assert app.test_client().post("/process", json=helm_body()).status_code == 200
    service.loaded().scheduler.stop()


def test_a_fault_of_ours_is_500_without_its_inside_and_passes(client, service, caplog, monkeypatch):
    def broken(*prompt):
        raise MemoryError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(service.loaded().engine, "begin", broken)
        response = client.post("/process", json=helm_body())
    assert response.status_code == 500
    assert response.get_json()["error"]["message"] == "internal error: MemoryError"
    assert "secret" in caplog.text
    assert client.post("/process", json=helm_body()).status_code == 200


def test_nothing_to_serve_is_said():
    with pytest.raises(ConfigError, match="no model: give bundle=<folder>, or lora=none"):
        inference_config(compose_config([]), [], {"serve"})
    base = compose_config(["lora=none", "model=tiny"])
    assert inference_config(base, ["lora=none", "model=tiny"], {"serve"}) is base
    with pytest.raises(
        ConfigError, match=r"no nowhere/manifest\.json and no nowhere/bundle/manifest\.json"
    ):
        inference_config(compose_config(["bundle=nowhere"]), ["bundle=nowhere"], {"serve"})


def test_a_run_folder_stands_for_the_bundle_in_it(serving_cfg, tmp_path):
    bundle = tmp_path / "bundle"
    with pytest.raises(ConfigError, match="neither a bundle nor a run folder"):
        bundle_folder(tmp_path)
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    save_config(serving_cfg, bundle / "config.yaml")
    for given in (tmp_path, bundle):
        typed = [f"bundle='{given}'", "serve.max_rows=2"]
        cfg = inference_config(compose_config(typed), typed, {"serve"})
        assert (cfg.bundle, cfg.serve.max_rows, cfg.prompt) == (str(bundle), 2, serving_cfg.prompt)


def test_how_steps_run_is_the_one_key_of_the_model_that_a_bundle_leaves_free(tmp_path):
    bundle = save_bundle(tmp_path / "bundle", 1)

    def found(word):
        typed = [f"bundle='{bundle}'", word]
        cfg = inference_config(compose_config(typed), typed, {"serve"})
        return check_model_source(cfg).base.cuda_graphs

    assert found("serve.max_rows=2") is True
    assert found("model.cuda_graphs=false") is False
    with pytest.raises(ConfigError, match=r"model\.double_quant is frozen"):
        found("model.double_quant=false")


@pytest.mark.parametrize("wanted", [True, False])
def test_the_engine_hears_whether_graphs_are_wanted(wanted, serving_cfg, monkeypatch):
    """On a card, which this one pretends to be once the weights are here."""
    serving_cfg = replace(
        serving_cfg, lora=None, model=replace(serving_cfg.model, cuda_graphs=wanted)
    )
    told, load = [], load_module.load_base_model
    monkeypatch.setattr(device_module, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(load_module, "load_base_model", lambda cfg, _: load(cfg, CPU))

    class Heard(Engine):
        def __init__(self, model, tokenizer, record):
            told.append(record)
            super().__init__(model, tokenizer)

    monkeypatch.setattr(engine_module, "Engine", Heard)
    load_engine(check_model_source(serving_cfg))
    assert told == [CudaRecording if wanted else None]
