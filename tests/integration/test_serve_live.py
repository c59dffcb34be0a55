"""The server as a process: what only a real connection shows."""

import json
import re
import socket
import time
import urllib.error
import urllib.request

import pytest
from support.paths import ROOT
from support.servers import Server

TINY = ["serve", "model=tiny", "prompt=plain", "lora=none"]
STEPS = "effchal_decode_step_seconds_count"
# The greedy answer of the tiny model to this prompt repeats one token for ever.
ENDLESS = {"prompt": "p", "max_tokens": 7000, "temperature": 0}


def server(tmp_path, *overrides):
    folder = f"hydra.run.dir={tmp_path}"
    command = [*TINY, "serve.port=PORT", folder, "serve.max_new_tokens=7000", *overrides]
    return Server(command, cwd=ROOT)


def connect(url, path, body, headers=""):
    """Send a request and leave its answer unread."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    data = json.dumps(body).encode()
    headers += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode() + data)
    return connection


def metric(url, name):
    text = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found.group(1)) if found else 0.0


def wait_until(condition, timeout_s=20):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_client_that_hangs_up_frees_its_row(tmp_path):
    with server(tmp_path, "serve.max_rows=1") as live:
        for extra in ({}, {"stream": True}):
            connection = connect(live.url, "/v1/completions", ENDLESS | extra)
            enough = metric(live.url, STEPS) + 5
            wait_until(lambda enough=enough: metric(live.url, STEPS) > enough)
            connection.close()
            start = time.monotonic()
            body = json.dumps({"prompt": "y", "max_tokens": 2}).encode()
            request = urllib.request.Request(f"{live.url}/v1/completions", body)
            assert json.load(urllib.request.urlopen(request, timeout=30))["choices"]
            assert time.monotonic() - start < 5  # the one row was free again
        done = 'effchal_requests_total{path="/v1/completions",status="499"}'
        wait_until(lambda: metric(live.url, done) == 1)


def test_a_client_that_keeps_its_answered_connection_stalls_nobody(tmp_path):
    with server(tmp_path) as live:
        kept = []
        for _ in range(3):
            wrong = {"prompt": "x", "max_tokens": -1}
            kept.append(connect(live.url, "/v1/completions", wrong, "Connection: close\r\n"))
            assert kept[-1].recv(12) == b"HTTP/1.1 400"
            start = time.monotonic()
            urllib.request.urlopen(f"{live.url}/health", timeout=10).close()
            assert time.monotonic() - start < 1.8  # gunicorn 26 and 27 take 2 s
        for connection in kept:
            connection.close()


def test_a_stream_comes_token_by_token(tmp_path):
    with server(tmp_path) as live:
        body = {"prompt": "x", "max_tokens": 300, "stream": True, "temperature": 1.0, "seed": 3}
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{live.url}/v1/completions", data)
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            first = response.readline()
            assert first.startswith(b"data: {")
            steps = metric(live.url, STEPS)
            assert steps < 250  # the first chunk was here long before the last token
            assert response.read().endswith(b"data: [DONE]\n\n")


def test_a_tokenizer_never_waits_behind_completions(tmp_path):
    with server(tmp_path, "serve.max_waiting=4") as live:
        connections = [connect(live.url, "/v1/completions", ENDLESS) for _ in range(4)]
        wait_until(lambda: metric(live.url, STEPS) > 0)
        request = urllib.request.Request(f"{live.url}/process", b'{"prompt": "x"}')
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert (refused.value.code, refused.value.headers["Retry-After"]) == (503, "10")
        for _ in range(20):
            request = urllib.request.Request(f"{live.url}/tokenize", b'{"text": "abc"}')
            assert len(json.load(urllib.request.urlopen(request, timeout=10))["tokens"]) == 3
        # All that was before the first answer was whole.
        assert metric(live.url, "effchal_generated_tokens_total") == 0
        for connection in connections:
            connection.close()
