"""GET /: what the page's answer says to a browser, and what other clients get."""

import base64
import hashlib
import html
import json
import re

import pytest
from support.http_client import TALK, post

from effchal.serving.app import make_app

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
MOST_BYTES = 40_000


def settings_of(response):
    text = re.search('data-settings="(.*?)"', response.get_data(as_text=True))[1]
    return json.loads(html.unescape(text))


def test_the_page_is_small_and_loads_nothing_from_elsewhere(client):
    response = client.get("/", headers=BROWSER)
    text = response.get_data(as_text=True)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert len(text.encode()) < MOST_BYTES
    assert re.findall(r"https?://|//\w+\.|@import|url\(|<script \w|eval|innerHTML", text) == []


def test_the_policy_allows_the_page_its_own_script_and_style_alone(client):
    response = client.get("/", headers=BROWSER)
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", response.get_data(as_text=True), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/html;q=0"])
def test_other_clients_get_what_an_unknown_path_gets(client, accept):
    headers = {} if accept is None else {"Accept": accept}
    response, unknown = (client.get(path, headers=headers) for path in ("/", "/nowhere"))
    assert response.status_code == unknown.status_code == 404
    assert response.get_json() == unknown.get_json()


def test_the_page_needs_no_token_and_shows_that_its_requests_do(service, monkeypatch):
    assert settings_of(make_app(service).test_client().get("/", headers=BROWSER))["token"] is False
    monkeypatch.setenv("EFFCHAL_TOKEN", "sesame")
    client = make_app(service).test_client()
    response = client.get("/", headers=BROWSER)
    assert settings_of(response) == {"token": True, "methods": []}
    assert "sesame" not in response.get_data(as_text=True)
    assert client.get("/").status_code == 401
    assert client.post("/", headers=BROWSER).status_code == 401
    assert client.get("/v1/models", headers=BROWSER).status_code == 401


def test_decodings_are_offered_where_requests_may_choose(service):
    service.cfg.serve.allow_decoding_override = True
    response = make_app(service).test_client().get("/", headers=BROWSER)
    assert settings_of(response)["methods"] == ["greedy", "sample", "dola", "sled"]


def test_a_chat_tells_the_layer_that_dola_chose(service):
    service.cfg.serve.allow_decoding_override = True
    client = make_app(service).test_client()
    body = {"messages": TALK, "logprobs": True, "max_tokens": 12}
    dola = {"decoding": {"method": "dola", "premature_layers": [0, 1], "relative_top": 0.0}}
    for changes, layers in ((dola, {0, 1}), ({}, {None})):
        answer = post(client, "/v1/chat/completions", body | changes)
        found = {token["layer"] for token in answer["choices"][0]["logprobs"]["content"]}
        assert found
        assert found <= layers
