"""Launches of a training step and a decode step at Mistral-7B's shape, on fake tensors."""

import json
import os
import subprocess
import sys

from support.paths import ROOT


def test_the_launches_of_a_layer_are_counted_without_a_card():
    command = [sys.executable, "benchmarks/count_launches.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    none, selective, full, decode = (json.loads(line.removeprefix("RESULT ")) for line in lines)
    assert {row["layers"] for row in (none, selective, full, decode)} == {"fused"}
    assert 0 < none["element_wise"] <= 60
    assert 0 < none["kb_per_token"] <= 700
    # Four products of base weights forward and four backward at the least.
    assert 8 <= none["products"] < selective["products"] < full["products"]
    assert (none["attention"], full["attention"]) == (2, 3)
    assert decode["attention"] == 1
    assert decode["element_wise"] <= 14
