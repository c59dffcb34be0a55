import json
import math
import threading
import time

import pytest

from effchal.cli import compose_config
from effchal.config import Config, ConfigError, DecodingConfig, ModelConfig, PromptConfig
from effchal.config import ServeConfig as Serve
from effchal.config.choices import DecodingMethod, Dtype
from effchal.decoding.contrast import Dola
from effchal.model_source import inference_config
from effchal.serving.app import make_app
from effchal.serving.helm_types import ProcessRequest
from effchal.serving.service import Service


@pytest.fixture
def cfg():
    return Config(
        model=ModelConfig(name="builtin:tiny", dtype=Dtype.float32),
        prompt=PromptConfig(user="Q: {content}\nA:"),
        lora=None,
        decoding=DecodingConfig(max_new_tokens=5),
        serve=Serve(max_prompt_tokens=200, max_new_tokens=50, max_waiting=3),
    )


@pytest.fixture
def service(cfg, tiny_engine):
    service = Service(cfg)
    service.set_ready(tiny_engine)
    yield service
    service.scheduler.stop()
    tiny_engine.clear()


def sampling_params(body, service):
    """What /process makes of a body."""
    stops, top = body.stop_sequences, body.top_k_per_token
    return service.sampling_params(body, body.max_new_tokens, stops, top, None, "max_new_tokens")


@pytest.fixture
def client(service):
    return make_app(service).test_client()


def helm_body(**changes):
    """The eight keys of HELM's client."""
    return {
        **{
            "prompt": "hello",
            "temperature": 1e-7,
            "num_return_sequences": 1,
            "max_new_tokens": 8,
            "top_p": 1,
        },
        **{"echo_prompt": False, "top_k_per_token": 1, "stop_sequences": []},
        **changes,
    }


def check_answer(answer):
    """What HELM reads or asserts of every answer."""
    assert set(answer) == {"text", "tokens", "logprob", "request_time"}
    assert "".join(token["text"] for token in answer["tokens"]) == answer["text"]
    numbers = [answer["logprob"], answer["request_time"]]
    for token in answer["tokens"]:
        assert set(token) == {"text", "logprob", "base_logprob", "top_logprob"}
        numbers += [token["logprob"], *token["top_logprob"].values()]
    assert all(isinstance(number, float | int) and math.isfinite(number) for number in numbers)
    assert answer["logprob"] == pytest.approx(sum(token["logprob"] for token in answer["tokens"]))


def test_process_answers_helm_with_the_trained_template(client, service):
    from effchal.decoding.sampling import SamplingParams
    from effchal.prompts import Turn

    answer = client.post("/process", json=helm_body()).get_json()
    check_answer(answer)
    ids = service.encoder.prompt_ids([Turn("user", "hello")])
    service.scheduler.stop()
    assert answer["text"] == service.engine.complete(ids, SamplingParams(max_new_tokens=8)).text
    assert all(len(token["top_logprob"]) == 1 for token in answer["tokens"])


def test_the_prompt_alone_is_enough(client):
    answer = client.post("/process", json={"prompt": "The capital of France is "}).get_json()
    check_answer(answer)
    assert 0 < len(answer["tokens"]) <= 5


def test_keys_of_the_2023_sample_and_unknown_ones_are_taken(client):
    body = {
        "prompt": "x",
        "num_samples": 1,
        "top_k": 5,
        "seed": 7,
        "temperature": 0.9,
        "embedding": None,
    }
    first, second = (client.post("/process", json=body).get_json() for _ in range(2))
    check_answer(first)
    assert first["text"] == second["text"]


def test_zero_new_tokens_with_echo_scores_the_prompt_as_it_is(client):
    answer = client.post(
        "/process", json=helm_body(prompt="a b c", max_new_tokens=0, echo_prompt=True)
    ).get_json()
    check_answer(answer)
    assert answer["text"] == "a b c"
    assert answer["tokens"][0]["logprob"] == 0.0
    assert all(token["logprob"] < 0 for token in answer["tokens"][1:])


def test_zero_new_tokens_is_an_empty_answer(client):
    answer = client.post("/process", json=helm_body(max_new_tokens=0)).get_json()
    check_answer(answer)
    assert (answer["text"], answer["tokens"]) == ("", [])


@pytest.mark.parametrize("echo", [False, True])
def test_an_empty_prompt_is_answered(client, echo):
    check_answer(client.post("/process", json=helm_body(prompt="", echo_prompt=echo)).get_json())


def test_stops_are_honoured_on_text(client):
    whole = client.post("/process", json=helm_body(max_new_tokens=20)).get_json()["text"]
    stop = whole[4:6]
    answer = client.post(
        "/process", json=helm_body(max_new_tokens=20, stop_sequences=[stop, "never"])
    ).get_json()
    check_answer(answer)
    assert answer["text"] == whole[: whole.index(stop)]


def test_a_request_decides_over_the_bundle_and_the_bundle_where_it_is_silent(service):
    silent = sampling_params(ProcessRequest(prompt="x"), service)
    assert (silent.temperature, silent.top_p, silent.max_new_tokens) == (0.0, 1.0, 5)
    sample = DecodingMethod.sample
    service.cfg.decoding = DecodingConfig(
        method=sample, temperature=0.7, top_p=0.9, max_new_tokens=6
    )
    silent = sampling_params(ProcessRequest(prompt="x"), service)
    assert (silent.temperature, silent.top_p, silent.max_new_tokens) == (0.7, 0.9, 6)
    spoken = sampling_params(
        ProcessRequest(prompt="x", temperature=0.0, top_p=0.5, max_new_tokens=1), service
    )
    assert (spoken.temperature, spoken.top_p, spoken.max_new_tokens) == (0.0, 0.5, 1)


def test_the_bundle_decides_on_layers_and_penalty(cfg, tiny_engine):
    cfg.decoding = DecodingConfig(
        method=DecodingMethod.dola,
        premature_layers=[0, 1],
        repetition_penalty=1.2,
        contrast_prompt=True,
    )
    service = Service(cfg)
    service.set_ready(tiny_engine)
    asked = sampling_params(ProcessRequest(prompt="x", temperature=0.0), service)
    assert asked.contrast == Dola((0, 1))
    assert (asked.repetition_penalty, asked.contrast_prompt) == (1.2, True)
    answer = make_app(service).test_client().post("/process", json=helm_body()).get_json()
    check_answer(answer)
    assert any(token["logprob"] != token["base_logprob"] for token in answer["tokens"])
    assert all(token["base_logprob"] < 0 for token in answer["tokens"])


TEXTS = ["Hello  world", "naïve 漢字 🙂", "</s><|endoftext|><s>", " a\n\n b\t", "", "\r\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_decode_undoes_tokenize(client, text):
    tokens = client.post("/tokenize", json={"text": text}).get_json()["tokens"]
    assert client.post("/decode", json={"tokens": tokens}).get_json()["text"] == text


def test_tokenize_truncates_when_asked_and_only_then(client):
    body = {"text": "0123456789", "truncation": True, "max_length": 4}
    answer = client.post("/tokenize", json=body).get_json()
    assert len(answer["tokens"]) == 4
    assert answer["request_time"] >= 0
    assert (
        len(client.post("/tokenize", json=body | {"truncation": False}).get_json()["tokens"]) == 10
    )
    for name in ("prompt", "content"):
        assert len(client.post("/tokenize", json={name: "0123"}).get_json()["tokens"]) == 4


def test_decode_skips_special_tokens(client, service):
    tokens = [*service.encoder.text_ids("ab"), service.encoder.eos_id]
    assert client.post("/decode", json={"tokens": tokens}).get_json()["text"] == "ab"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/process", {}, "prompt"),
        ("/process", {"prompt": 5}, "prompt"),
        ("/process", {"prompt": None}, "prompt"),
        ("/process", {"prompt": "\ud800"}, "prompt"),
        ("/process", helm_body(max_new_tokens=-1), "max_new_tokens"),
        ("/process", helm_body(max_new_tokens="8"), "max_new_tokens"),
        ("/process", helm_body(max_new_tokens=51), "max_new_tokens"),
        ("/process", helm_body(temperature=-0.1), "temperature"),
        ("/process", helm_body(temperature="hot"), "temperature"),
        ("/process", helm_body(top_p=0), "top_p"),
        ("/process", helm_body(top_p=1.5), "top_p"),
        ("/process", helm_body(stop_sequences="###"), "stop_sequences"),
        ("/process", helm_body(stop_sequences=[5]), "stop_sequences.0"),
        ("/process", helm_body(echo_prompt="yes"), "echo_prompt"),
        ("/process", helm_body(num_return_sequences=0), "num_return_sequences"),
        ("/process", helm_body(seed=2**63), "seed"),
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


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'"x"',
        b"\xff",
        b'{"prompt": NaN}',
        b'{"prompt": "x", "top_p": NaN}',
        NESTED,
        LONG,
    ],
)
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
    assert (
        "11 prompt tokens and 8190 new ones; this model holds 8192"
        in response.get_json()["error"]["message"]
    )


def test_a_huge_body_is_413_and_an_unknown_path_404_and_both_are_json(client):
    assert client.post("/process", data=b"x" * (9 << 20)).status_code == 413
    response = client.get("/nowhere")
    assert response.status_code == 404
    assert response.get_json()["error"]["message"]
    wrong_method = client.get("/process")
    assert (wrong_method.status_code, set(wrong_method.headers["Allow"].split(", "))) == (
        405,
        {"POST", "OPTIONS"},
    )


def test_before_the_model_is_there_the_process_lives_but_is_not_ready(cfg):
    client = make_app(Service(cfg)).test_client()
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
    """An engine that goes on when it is told to."""

    def __init__(self, engine):
        self._engine = engine
        self.go = threading.Event()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def begin(self, prompt_ids, variants):
        self.go.wait(timeout=30)
        return self._engine.begin(prompt_ids, variants)


def test_requests_queue_up_to_a_bound_and_tokenize_never_waits(cfg, tiny_engine):
    service, slow = Service(cfg), Slow(tiny_engine)
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
    service.scheduler.stop()


def test_a_fault_of_ours_is_500_without_its_inside_and_passes(client, service, caplog, monkeypatch):
    def broken(prompt_ids, variants):
        raise MemoryError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(service.engine, "begin", broken)
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
    with pytest.raises(ConfigError, match=r"nowhere/config\.yaml does not exist"):
        inference_config(compose_config(["bundle=nowhere"]), ["bundle=nowhere"], {"serve"})
