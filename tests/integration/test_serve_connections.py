"""Slow, broken and hostile connections: they get an error in JSON and stall nobody."""

import errno
import http.client
import json
import os
import re
import select
import socket
import sys
import time
import urllib.request

import psutil
import pytest
from support import forked
from support.paths import ROOT
from support.servers import Server

from effchal.config import ConfigError
from effchal.serve import SPARE_THREADS, check_address
from effchal.serving.ready import free_port
from effchal.serving.worker import HEAD_S, LONGEST_INTEGER

TINY = ["serve", "model=tiny", "prompt=plain", "lora=none"]
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"prompt": "x", "max_tokens": 2}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    command = [*TINY, "serve.port=PORT", f"hydra.run.dir={folder}", "serve.max_waiting=4"]
    environment = os.environ | {"EFFCHAL_TOKEN": ""}
    with Server(command, cwd=ROOT, env=environment) as server:
        yield server


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def answer(connection):
    """Status, headers and JSON of the next answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.headers, json.loads(response.read())


def seconds_of(server, path, body=None):
    start = time.monotonic()
    urllib.request.urlopen(server.url + path, body, timeout=20).close()
    return time.monotonic() - start


def test_half_sent_requests_block_neither_clients_nor_health(live):
    beginnings = [b"", b"POST /v1", HEAD, HEAD + b"Content-Length: 5\r\n\r\n{"]
    beginnings += [HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"]
    held = [connect(live) for _ in range(200)]  # more than there are threads
    for number, connection in enumerate(held):
        connection.sendall(beginnings[number % len(beginnings)])
    assert seconds_of(live, "/health") < 2
    assert seconds_of(live, "/v1/completions", BODY) < 2
    start = time.monotonic()
    status, _, body = answer(held[2])  # no more comes, so the server gives up on it
    assert time.monotonic() - start < HEAD_S + 5
    assert (status, body["error"]["message"]) == (408, "not all of it came within 10 s")
    assert held[0].recv(1) == b""  # nothing was asked, so nothing is answered
    for connection in held:
        connection.close()


def test_clients_that_read_no_answer_do_not_block_health(live):
    text = json.dumps({"text": "x" * 900_000}).encode()  # its answer fills any buffer
    request = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(text)
    held = []
    for _ in range(4 + SPARE_THREADS + 2):  # more than there are threads
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", live.port))
        connection.sendall(request + text)
        held.append(connection)
    for _ in range(10):
        assert seconds_of(live, "/health") < 2
        time.sleep(0.1)
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\0garbage\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5x\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
        (HEAD + b"Content-Length: 99999999\r\n\r\n", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n900000\r\n", 413),
        (HEAD + b"Expect: a-miracle\r\nContent-Length: 0\r\n\r\n", 417),
        (HEAD + b"X: " + b"y" * 9000 + b"\r\n\r\n", 431),
        (HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_what_the_server_cannot_read_is_refused_in_json(live, data, status):
    with connect(live) as connection:
        connection.sendall(data)
        found, headers, body = answer(connection)
    assert (found, headers["Content-Type"]) == (status, "application/json")
    assert body["error"]["message"]


def test_what_never_reaches_a_route_is_counted_too(live):
    def counted():
        text = urllib.request.urlopen(live.url + "/metrics", timeout=20).read().decode()
        found = re.findall(r'requests_total{path="unread",status="(\d+)"} (\S+)', text)
        return {status: float(count) for status, count in found}

    before = counted()
    for data in (b"\0garbage\r\n\r\n", HEAD + b"Content-Length: 99999999\r\n\r\n"):
        with connect(live) as connection:
            connection.sendall(data)
            answer(connection)
    after = counted()
    assert {status: after[status] - before.get(status, 0) for status in ("400", "413")} == {
        "400": 1,
        "413": 1,
    }


@pytest.mark.parametrize(("digits", "status"), [(LONGEST_INTEGER, 200), (LONGEST_INTEGER + 1, 400)])
def test_an_integer_of_very_many_digits_is_refused_before_it_is_read(live, digits, status):
    body = b'{"prompt": "x", "max_new_tokens": 1, "unknown": %s}' % (b"9" * digits)
    head = b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(live) as connection:
        connection.sendall(head + body)
        found, _, told = answer(connection)
    assert found == status, told
    if status == 400:
        assert told["error"]["message"] == "the body has an integer of too many digits"


def test_a_client_that_sends_too_much_still_reads_why(live):
    with connect(live) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(9):
            connection.sendall(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
        status, _, body = answer(connection)
    assert (status, body["error"]["message"]) == (413, "the body has more than 8388608 bytes")


def test_a_script_name_changes_nothing(live):
    with connect(live) as connection:
        connection.sendall(WHOLE.replace(b"Host: x", b"Host: x\r\nSCRIPT_NAME: /elsewhere"))
        assert answer(connection)[0] == 200


def test_requests_in_one_packet_are_answered_in_turn(live):
    with connect(live) as connection:
        connection.sendall(WHOLE * 3 + b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n")
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    assert (data.count(b"HTTP/1.1 200"), data.count(b"HTTP/1.1 404")) == (3, 1)


def test_a_client_is_told_to_go_on_before_it_sends_its_body(live):
    with connect(live) as connection:
        head = WHOLE[: -len(BODY)].replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert answer(connection)[0] == 200


def test_a_server_that_stops_does_not_wait_for_half_a_request(tmp_path):
    command = [*TINY, "serve.port=PORT", f"hydra.run.dir={tmp_path}"]
    with Server(command, cwd=ROOT) as live, connect(live) as half, connect(live) as idle:
        half.sendall(HEAD + b"Content-Length: 5\r\n\r\n{")
        assert seconds_of(live, "/health") < 5
        live.process.terminate()
        status, _, body = answer(half)
        assert (status, body["error"]["message"]) == (503, "the server is stopping")
        assert idle.recv(1) == b""
        assert live.process.wait(timeout=30) == 0
        assert ": 503, the server is stopping\n" in live.process.communicate()[0]


SMALL_LIMIT = """
from effchal.serving import worker
worker.RECEIVED_LIMIT_BYTES = 1 << 20
from effchal.serve import main
main()
"""


def test_half_sent_large_bodies_keep_out_large_requests_alone(tmp_path):
    command = [sys.executable, "-c", SMALL_LIMIT, *TINY[1:], "serve.port=PORT"]
    with Server([*command, f"hydra.run.dir={tmp_path}"], cwd=ROOT) as live:
        large = HEAD + b"Content-Length: 2000000\r\n\r\n" + b" " * 1_000_000
        with connect(live) as one, connect(live) as other:
            one.sendall(large)
            assert seconds_of(live, "/health") < 5
            other.sendall(large)
            (refused,), _, _ = select.select([one, other], [], [], 30)  # what is read first, stays
            held = other if refused is one else one
            status, headers, _ = answer(refused)
            assert (status, headers["Retry-After"]) == (503, "10")
            held.sendall(b" " * 40_000)  # within the limit by less than a small request
            assert seconds_of(live, "/health") < 5
            assert seconds_of(live, "/v1/completions", BODY + b" " * 60_000) < 5
            held.sendall(b" " * 50_000)
            assert answer(held)[0] == 503


def test_gunicorn_alone_has_the_settings_of_this_server(tmp_path):
    command = [sys.executable, "-m", "gunicorn", "-k", "effchal.serving.worker.Worker"]
    command += ["--threads", "8", "--bind", "127.0.0.1:PORT"]
    command += ["effchal.serve:create_app('model=tiny', 'prompt=plain', 'lora=none')"]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "EFFCHAL_TOKEN": ""}
    with Server(command, cwd=ROOT, env=environment) as live:
        with connect(live) as connection:
            connection.sendall(WHOLE.replace(b"Host: x", b"Host: x\r\nSCRIPT_NAME: /elsewhere"))
            assert answer(connection)[0] == 200
        assert list(tmp_path.iterdir()) == []  # no control socket


def test_more_connections_than_descriptors_do_not_end_the_server(tmp_path):
    serve = " ".join(
        [sys.executable, "-m", "effchal", *TINY, "serve.port=PORT", f"hydra.run.dir={tmp_path}"]
    )
    command = ["bash", "-c", f"ulimit -n 400; exec {serve}"]
    with Server(command, cwd=ROOT) as live:
        (worker,) = psutil.Process(live.process.pid).children()
        held = [connect(live) for _ in range(450)]
        for connection in held:
            connection.sendall(b"GET")
        time.sleep(1)
        for connection in held:
            connection.close()
        assert seconds_of(live, "/health") < 10
        assert psutil.Process(live.process.pid).children() == [worker]  # not a new one
        live.process.terminate()
        assert live.process.wait(timeout=60) == 0


def test_a_port_in_use_is_one_line_that_names_the_key(live):
    result = forked.run([*TINY, f"serve.port={live.port}"], timeout=60)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert f"serve.host=127.0.0.1 serve.port={live.port}: Address already in use" in line
    assert "give serve.port=" in line


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "ä..b"])
def test_a_host_that_is_not_this_machine_is_one_line_that_names_the_key(host):
    with pytest.raises(ConfigError, match=r"give serve\.host=") as refused:
        check_address(host, free_port())
    assert f"serve.host={host}" in str(refused.value)
    assert "give serve.port" not in str(refused.value)


def test_a_port_that_is_not_allowed_is_one_line_that_names_the_key(monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)  # root may listen at any port
    with pytest.raises(ConfigError, match=r"serve\.port=80: Permission denied; give serve\.port="):
        check_address("127.0.0.1", 80)


def test_a_server_listens_at_an_ipv6_address_and_takes_a_token_beyond_ascii(tmp_path):
    port = free_port()
    command = [*TINY, "serve.host=::1", f"serve.port={port}", f"hydra.run.dir={tmp_path}"]
    environment = os.environ | {"EFFCHAL_TOKEN": "sésame"}
    process = forked.Command(command, env=environment)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                connection = socket.create_connection(("::1", port), timeout=30)
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)
        token = "Authorization: bearer sésame\r\n".encode()
        connection.sendall(b"GET /metrics HTTP/1.1\r\n" + token + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_token_with_a_line_break_ends_the_server_at_its_start(tmp_path):
    environment = os.environ | {"EFFCHAL_TOKEN": "sesame\n"}
    result = forked.run([*TINY, f"serve.port={free_port()}"], timeout=60, env=environment)
    assert result.returncode == 2
    assert "EFFCHAL_TOKEN is not plain UTF-8 text" in result.stderr
