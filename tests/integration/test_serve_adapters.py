"""One server, one base model, several adapters: as if each were served alone."""

import json
import threading

import pytest
from support.configs import compose_config
from support.http_client import TALK, helm_body, post
from support.saved_adapters import NARROW, save_bundle

from effchal.config import ConfigError
from effchal.model_source import check_model_source, load_engine
from effchal.serving.app import make_app, model_name, serving_config
from effchal.serving.service import Service
from effchal.serving.shared_base import check_adapters

BODY = {"prompt": "hello", "max_tokens": 12, "temperature": 0, "logprobs": 1, "ignore_eos": True}
SHORT = ["serve.max_new_tokens=60", "serve.max_prompt_tokens=200"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Of other adapters, prompt templates and decodings."""
    home = tmp_path_factory.mktemp("bundles")
    words = ["prompt.user='Q: {content}\\nA:'", "decoding.repetition_penalty=1.3"]
    return {
        "wide": str(save_bundle(home / "wide", 1)),
        "narrow": str(save_bundle(home / "narrow", 2, words, r=8, targets=NARROW)),
    }


@pytest.fixture
def serve():
    """A client of what `effchal serve <words>` serves; stopped at the end."""
    started = []

    def make(*words):
        typed = [*SHORT, *words]
        cfg = serving_config(compose_config(typed), typed)
        source = check_model_source(cfg)
        service = Service(cfg, model_name(cfg), typed)
        checked = check_adapters(cfg, source, typed)
        service.base = source if source.bundle is None else None
        service.set_ready(load_engine(source), adapters=checked)
        started.append(service)
        client = make_app(service).test_client()
        client.loaded = service.loaded()
        return client

    yield make
    for service in started:
        service.loaded().scheduler.stop()


def adapters_word(bundles):
    pairs = ", ".join(f"{name}: {path}" for name, path in bundles.items())
    return f"serve.adapters={{{pairs}}}"


def answer(client, **body):
    found = post(client, "/v1/completions", BODY | body)
    choice = found["choices"][0]
    return choice["text"], choice["logprobs"]["token_logprobs"]


def check_same(one, other):
    assert one[0] == other[0]
    assert one[1] == pytest.approx(other[1], abs=2e-5)


def chat(client, **body):
    found = post(client, "/v1/chat/completions", {"messages": TALK, "max_tokens": 12} | body)
    return found["choices"][0]["message"]["content"]


def raw(client, path, body):
    response = client.post(path, data=json.dumps(body))
    return response.status_code, response.get_json()


def test_each_model_answers_as_when_it_is_served_alone(serve, bundles):
    client = serve(adapters_word(bundles))
    listed = client.get("/v1/models").get_json()["data"]
    assert [each["id"] for each in listed] == ["builtin:tiny", "wide", "narrow"]
    assert [each["parent"] for each in listed] == [None, "builtin:tiny", "builtin:tiny"]
    alone = {name: serve(f"bundle={path}") for name, path in bundles.items()}
    alone["builtin:tiny"] = serve(f"bundle=base:{bundles['wide']}")
    texts = set()
    for name, one in alone.items():
        check_same(answer(client, model=name), answer(one))
        assert chat(client, model=name) == chat(one)
        found = post(client, "/process", helm_body(model=name))
        assert found["text"] == post(one, "/process", helm_body())["text"]
        texts.add(answer(client, model=name)[0])
    assert len(texts) == 3
    check_same(answer(client), answer(client, model="builtin:tiny"))
    assert post(client, "/v1/completions", BODY | {"model": "narrow"})["model"] == "narrow"
    status, body = raw(client, "/v1/completions", BODY | {"model": "other"})
    assert status == 404
    assert "this server has builtin:tiny, wide, narrow" in body["error"]["message"]


def test_answers_at_once_are_those_of_each_alone(serve, bundles):
    client = serve(adapters_word(bundles), "serve.max_rows=6")
    app, names = client.application, ["builtin:tiny", *bundles]
    asked = [{"model": names[i % 3], "prompt": f"hello {i // 3}"} for i in range(12)]
    expected = [answer(client, **each) for each in asked]
    found = [None] * len(asked)

    def ask(i):
        found[i] = answer(app.test_client(), **asked[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asked))]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    for one, other in zip(found, expected, strict=True):
        check_same(one, other)


def test_adapters_come_and_go_while_the_server_answers(serve, bundles):
    words = ["model=tiny", "model.dtype=float32", "lora=none"]
    client = serve(*words, "serve.allow_adapter_updates=true")
    load = {"lora_name": "wide", "lora_path": bundles["wide"]}
    names = post(client, "/v1/load_lora_adapter", load)["data"]
    assert [each["id"] for each in names] == ["builtin:tiny", "wide"]
    alone = serve(f"bundle={bundles['wide']}")
    check_same(answer(client, model="wide"), answer(alone))
    status, body = raw(client, "/v1/load_lora_adapter", load)
    assert (status, "is there already" in body["error"]["message"]) == (400, True)
    load_other = {"lora_name": "other", "lora_path": "/no/such/bundle"}
    status, body = raw(client, "/v1/load_lora_adapter", load_other)
    assert (status, "neither a bundle nor" in body["error"]["message"]) == (400, True)

    status, body = raw(client, "/v1/load_lora_adapter", load | {"lora_name": "a b"})
    assert (status, "may have letters" in body["error"]["message"]) == (400, True)

    post(client, "/v1/unload_lora_adapter", {"lora_name": "wide"})
    assert raw(client, "/v1/completions", BODY | {"model": "wide"})[0] == 404
    assert raw(client, "/v1/unload_lora_adapter", {"lora_name": "wide"})[0] == 404
    again = {"lora_name": "wide", "lora_path": bundles["narrow"]}
    post(client, "/v1/load_lora_adapter", again)
    check_same(answer(client, model="wide"), answer(serve(f"bundle={bundles['narrow']}")))


def test_an_adapter_is_freed_once_its_answers_are_out(serve, bundles):
    client = serve(adapters_word(bundles), "serve.allow_adapter_updates=true")
    body = {"model": "wide", "max_tokens": 60, "stream": True}
    expected = answer(client, model="wide", max_tokens=60)[0]
    response = client.post("/v1/completions", data=json.dumps(BODY | body))
    events = response.iter_encoded()
    texts = [next(events)]
    post(client, "/v1/unload_lora_adapter", {"lora_name": "wide"})
    texts += list(events)
    parts = [json.loads(each.decode().removeprefix("data: ")) for each in texts[:-1]]
    assert "".join(part["choices"][0]["text"] for part in parts) == expected
    left = client.loaded.scheduler.call(lambda: client.loaded.engine.model.adapters._loaded)
    assert left == [client.loaded.adapters["narrow"].adapter]


def test_a_request_that_comes_a_moment_too_late_is_no_other_model_s(serve, bundles):
    client = serve(adapters_word(bundles))
    wide = client.loaded.adapters["wide"]
    client.loaded.remove("wide")
    client.loaded.scheduler.call(lambda: None)  # behind it in the queue: the adapter is gone
    client.loaded.adapters["wide"] = wide  # as a request has it that began before
    status, body = raw(client, "/v1/completions", BODY | {"model": "wide"})
    assert (status, body["error"]["message"]) == (
        404,
        "the adapter was unloaded before this request began",
    )


def test_only_a_server_that_allows_it_lets_requests_change_adapters(serve, bundles):
    client = serve(adapters_word(bundles))
    for path in ("load", "unload"):
        body = {"lora_name": "wide"} | ({"lora_path": "x"} if path == "load" else {})
        status, found = raw(client, f"/v1/{path}_lora_adapter", body)
        assert status == 400
        assert "serve.allow_adapter_updates=true" in found["error"]["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bundle={wide}", "serve.adapters={{a: {wide}}}"], "name every bundle in"),
        (["serve.adapters={{builtin-x: /no/such}}"], "neither a bundle nor a run"),
        (
            ["lora=none", "model=tiny", "model.dtype=bfloat16", "serve.adapters={{a: {wide}}}"],
            "model.dtype=float32, and the base model here has bfloat16",
        ),
    ],
)
def test_what_cannot_be_served_together_is_refused_before_weights_are_read(bundles, words, message):
    def check(typed):
        cfg = serving_config(compose_config(typed), typed)
        check_adapters(cfg, check_model_source(cfg), typed)

    with pytest.raises(ConfigError, match=message):
        check([word.format(**bundles) for word in words])
