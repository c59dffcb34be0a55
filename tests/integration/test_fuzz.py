"""A small run of the fuzz: random requests beside clients that must not notice."""

import json
import os
import subprocess
import sys

from support.paths import ROOT


def test_random_requests_disturb_no_other_client():
    # Pauses are measured on an idle machine only; here they may be as long as a busy one makes,
    # and those who send may take a core like the others, or they would wait for an idle one.
    command = [sys.executable, "benchmarks/fuzz_serve.py", "--count", "12", "--pause", "60"]
    command += ["--quiet", "0", "--nice", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    found = json.loads(line.removeprefix("RESULT "))
    assert (found["requests"], found["faults"], found["exit"]) == (12, 0, [0, 0])
    assert {"200", "400"} <= set(found["answers"])
