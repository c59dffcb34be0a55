"""Bearer tokens, CORS, and what is logged."""

import json
import os
import resource
import socket

import pytest
from support.http_client import post

from effchal.config import ConfigError, ServeConfig
from effchal.serving import access
from effchal.serving.app import make_app
from effchal.serving.routes import hung_up


def authorized(service, monkeypatch, token, header):
    monkeypatch.setenv("EFFCHAL_TOKEN", token)
    headers = {"Authorization": header} if header is not None else {}
    return make_app(service).test_client().get("/v1/models", headers=headers).status_code


LATIN = "sésame ∞".encode().decode("latin-1")  # as WSGI gives a header's bytes


@pytest.mark.parametrize(
    ("token", "header", "status"),
    [
        ("sesame", "Bearer sesame", 200),
        ("sesame", "bearer sesame", 200),
        ("sesame", "BEARER  sesame", 200),
        ("sésame ∞", f"Bearer {LATIN}", 200),
        ("sésame ∞", "Bearer sesame", 401),
        ("sesame", "sesame", 401),
        ("sesame", "Basic sesame", 401),
        ("sesame", "Bearer", 401),
        ("sesame", "", 401),
        ("sesame", None, 401),
        ("Bearer", "Bearer", 401),
    ],
)
def test_a_bearer_token_is_compared_byte_by_byte_and_its_scheme_without_case(
    service, monkeypatch, token, header, status
):
    assert authorized(service, monkeypatch, token, header) == status


@pytest.mark.parametrize("token", ["sesame\n", " sesame", "ses\tame", "sesame\r\n", "\n", "\udcff"])
def test_a_token_that_no_client_can_send_is_told_at_the_start(service, monkeypatch, token):
    monkeypatch.setenv("EFFCHAL_TOKEN", token)
    with pytest.raises(ConfigError, match="EFFCHAL_TOKEN is not plain UTF-8 text: white space"):
        make_app(service)


def test_polls_are_counted_and_not_logged(client, service, monkeypatch):
    lines = []
    monkeypatch.setattr(access.access_log, "info", lines.append)
    for path in ("/health", "/ready", "/v1/models"):
        client.get(path).close()
    assert [json.loads(line)["path"] for line in lines] == ["/v1/models"]
    text = client.get("/metrics").get_data(as_text=True)
    assert 'effchal_requests_total{path="/ready",status="200"} 1.0' in text


PAGE = {"Origin": "https://page.example"}


@pytest.mark.parametrize("origins", [["https://page.example"], ["*"], ["http://a", "*"]])
def test_a_page_of_an_allowed_origin_may_ask(service, monkeypatch, origins):
    monkeypatch.setenv("EFFCHAL_TOKEN", "sesame")
    service.cfg.serve.cors_origins = origins
    client = make_app(service).test_client()
    preflight = client.options("/v1/completions", headers=PAGE)
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    for response in (
        preflight,
        client.post("/v1/completions", json={"prompt": "x"}, headers=PAGE),  # 401
        client.get("/v1/models", headers={**PAGE, "Authorization": "Bearer sesame"}),
    ):
        assert response.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
        assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize("origins", [[], ["https://other.example"], ["https://page.example.org"]])
def test_other_pages_may_not(service, origins):
    service.cfg.serve.cors_origins = origins
    response = make_app(service).test_client().get("/v1/models", headers=PAGE)
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("origin", ["page.example", "https://page.example/", "", "https://a b"])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ConfigError, match=r"serve\.cors_origins"):
        ServeConfig(cors_origins=[origin])


def test_every_json_answer_has_one_content_type(client):
    found = {
        client.get("/health").headers["Content-Type"],
        client.get("/openapi.json").headers["Content-Type"],
        client.get("/v1/models").headers["Content-Type"],
        client.get("/nowhere").headers["Content-Type"],
        client.get("/process").headers["Content-Type"],
        client.post("/process", data=b"{").headers["Content-Type"],
        client.post("/process", json={"prompt": "x"}).headers["Content-Type"],
        client.post("/tokenize", json={"text": "x"}).headers["Content-Type"],
    }
    assert found == {"application/json"}
    assert post(client, "/tokenize", {"text": "漢"})["count"] == 3


def test_a_client_on_a_high_descriptor_is_seen_hanging_up(service):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = 1500  # select.select takes none above 1,023
    assert hard > high
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, high + 1), hard))
    server_side, client_side = socket.socketpair()
    os.dup2(server_side.fileno(), high)
    with socket.socket(fileno=high) as connection, server_side:
        environ = {"gunicorn.socket": connection}
        with make_app(service).test_request_context(environ_overrides=environ):
            gone = hung_up()
        assert not gone()
        client_side.send(b"x")
        assert not gone()
        assert connection.recv(1) == b"x"
        client_side.close()
        assert gone()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
