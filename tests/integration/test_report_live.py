"""The report served on this machine, following runs."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest
from devtools import Browser
from support.browser import CHROMIUM, needs_chromium
from support.made_up_runs import config_text, make_training
from support.paths import ROOT


def hears_interrupts():
    """A shell's background job ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def watched(tmp_path):
    """A folder of runs and the port of a server that follows it and says no word but one."""
    config = config_text(into=tmp_path / "made.yaml")
    make_training(tmp_path / "runs" / "a", config)
    command = [sys.executable, "-m", "effchal", "report", "--watch", "--port", "0", "runs"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_interrupts,
    ) as process:
        try:
            line = process.stdout.readline()
            yield tmp_path / "runs", int(re.search(r":(\d+) follows", line)[1]), config
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
            assert process.stderr.read() == "\n"  # behind the ^C of the terminal
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


ROW = "runTable.data.rows.find((row) => row.run === 'b')"


@needs_chromium
def test_an_open_page_follows_a_run_until_it_is_deleted(watched, tmp_path):
    runs, port, config = watched
    with Browser(CHROMIUM, tmp_path / "profile") as browser:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait_for("document.body.dataset.ready")
        run = make_training(runs / "b", config)
        (run / "run.json").unlink()
        (run / ".lock").write_text(f"{os.getpid()}\n")
        browser.wait_for(f"{ROW}?.status === 'running' && {ROW}.steps === 20")
        browser.evaluate("runTable.table.selectRow(['b'])")
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 21, "loss": 1.5, "spent_s": 30}) + "\n")
        browser.wait_for(f"{ROW}.steps === 21 && byId('live').textContent.includes('b 21/')")
        browser.wait_for("document.querySelectorAll('#curves_chart svg path').length > 3")
        assert browser.evaluate("runTable.table.getSelectedData().map((row) => row.run)") == ["b"]
        (run / ".lock").unlink()  # the process is killed
        browser.wait_for(f"{ROW}.status === 'no record'")
        shutil.rmtree(run)
        browser.wait_for(f"!{ROW}")
        shutil.rmtree(runs)
        browser.wait_for("byId('problem_table').textContent.includes('not there any more')")
        assert browser.console == []


def test_a_browser_that_goes_away_leaves_no_word(watched):
    _, port, _ = watched
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert get(port, "/data.json")[0] == 200


def test_a_port_that_another_program_has_is_one_line(watched):
    runs, port, _ = watched
    command = [sys.executable, "-m", "effchal", "report", "--watch", "--port", str(port), str(runs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"error: --port {port}: another program has it; take another one\n"
