"""The report served on this machine, following runs."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.made_up_runs import config_text, make_training
from support.paths import ROOT


def hears_interrupts():
    """A shell's background job ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def watched(tmp_path):
    """A folder of runs and the port of a server that follows it."""
    config = config_text(into=tmp_path / "made.yaml")
    make_training(tmp_path / "runs" / "a", config)
    command = [sys.executable, "-m", "effchal", "report", "--watch", "--port", "0", "runs"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hears_interrupts,
    ) as process:
        try:
            line = process.stdout.readline()
            yield tmp_path / "runs", int(re.search(r":(\d+) follows", line)[1]), config
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def get(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.getheader("ETag"), answer.read().decode()


def test_watch_follows_runs(watched):
    runs, port, config = watched
    status, _, text = get(port, "/")
    assert status == 200
    assert 'data-live="yes"' in text
    _, tag, text = get(port, "/data.json")
    assert [row["run"] for row in json.loads(text)["rows"]] == ["a"]
    assert get(port, "/data.json", **{"If-None-Match": tag})[0] == 304
    run = make_training(runs / "b", config)
    (run / "run.json").unlink()
    (run / ".lock").write_text(f"{os.getpid()}\n")
    deadline = time.monotonic() + 30
    while len(json.loads(text)["rows"]) == 1 and time.monotonic() < deadline:
        time.sleep(0.5)
        _, tag, text = get(port, "/data.json")
    running = json.loads(text)["rows"][1]
    assert (running["run"], running["status"], running["steps"]) == ("b", "running", 20)
    assert get(port, "/elsewhere")[0] == 404
    assert get(port, "/", Host="example.org")[0] == 403


def test_a_port_that_another_program_has_is_one_line(watched):
    runs, port, _ = watched
    command = [sys.executable, "-m", "effchal", "report", "--watch", "--port", str(port), str(runs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"error: --port {port}: another program has it; take another one\n"
