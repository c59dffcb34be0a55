"""`effchal conformance` as a command, against our own server with the tiny model."""

import json
import os
import subprocess
import sys

from support.faulty_server import Faulty
from support.paths import ROOT
from support.servers import Server

TINY = [sys.executable, "-m", "effchal.serve", "model=tiny", "prompt=plain", "lora=none"]
TOKEN = "sésame ∞"
OUTSIDE = {"ready_while_loading", "ready_within_20_minutes", "container_port_80"}
OUTSIDE |= {"evaluation_within_2_hours", "sigterm"}
# The tiny model answers no question with a letter.
UNTOLD = {*OUTSIDE, "process_letter_ends_answer"}
RUN = """
import sys, effchal.__main__
sys.argv[0] = "effchal"
try:
    effchal.__main__.main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def conformance(folder, *arguments, **environment):
    command = [sys.executable, "-c", RUN, "conformance", *arguments, f"hydra.run.dir={folder}"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=200
    )


def test_our_own_server_keeps_every_rule_that_can_be_told(tmp_path):
    command = [*TINY, "serve.port=PORT", f"hydra.run.dir={tmp_path / 'serve'}"]
    environment = os.environ | {"EFFCHAL_TOKEN": TOKEN}
    with Server(command, cwd=ROOT, env=environment) as live:
        done = conformance(tmp_path / "run", live.url, EFFCHAL_TOKEN=TOKEN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "False"  # no torch
    text = (tmp_path / "run" / "conformance.json").read_text()
    record = json.loads(text)
    statuses = {check["name"]: check["status"] for check in record["checks"]}
    assert {name for name, status in statuses.items() if status != "kept"} == UNTOLD
    assert record["counts"] == {"kept": len(statuses) - 6, "broken": 0, "untold": 6}
    assert all(check["exchanges"] for check in record["checks"] if check["name"] not in OUTSIDE)
    assert not any(word in text for word in ("Bearer", TOKEN, json.dumps(TOKEN)[1:-1]))
    assert done.stdout.count("\npass ") > 50


def test_a_broken_rule_is_shown_with_what_was_sent_and_ends_with_1(tmp_path):
    with Faulty() as faulty:
        faulty.fault = "stops ignored"
        done = conformance(tmp_path / "run", faulty.url, "only=process_stop*")
    assert done.returncode == 1
    assert "FAIL            process_stops: with stop_sequences [" in done.stdout
    assert 'sent: POST /process {"prompt": "The capital of France is "' in done.stdout
    assert 'received: 200 {"text": "Once there was a fox.' in done.stdout
    assert "cannot be told  process_stops_across_tokens: process_stops is broken" in done.stdout
    assert f"error: {faulty.url} breaks process_stops\n" in done.stderr
    (stops, *_) = json.loads((tmp_path / "run" / "conformance.json").read_text())["checks"]
    assert (stops["name"], stops["status"]) == ("process_stops", "broken")
    assert json.loads(stops["exchanges"][-1]["sent"])["stop_sequences"]


def test_the_list_needs_no_server_and_leaves_no_folder(tmp_path):
    command = [sys.executable, "-m", "effchal", "conformance", "list", "only=decode_*"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    text = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert "decode_round_trip         decode(tokenize(x)) is x.\n" in text
    assert text.count("\n") == 4
    assert list(tmp_path.iterdir()) == []
