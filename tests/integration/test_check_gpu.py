"""The check of a card, all of it in toy sizes on a CPU."""

import json
import os
import subprocess
import sys

from support.paths import ROOT

PROOFS = {"kernels", "gradients", "dropout", "answers", "resume"}


def test_every_section_runs_and_every_proof_holds(tmp_path):
    command = [sys.executable, "benchmarks/check_gpu.py", "--tiny", "--out", str(tmp_path)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line for line in lines if "error" in line] == []
    measured = {"machine", "attention", "training", "decoding", "serving", "plan", "profile"}
    assert {line["section"] for line in lines} >= PROOFS | measured
    assert all(line["ok"] for line in lines if line["section"] in PROOFS)
    training = [line for line in lines if line["section"] == "training"]
    trained = {(line["system"], line["base"]) for line in training if "tokens_per_s" in line}
    assert trained >= {("effchal", "bf16"), ("effchal", "nf4"), ("transformers + peft", "nf4")}
    skipped = {line["system"] for line in lines if line.get("skipped")}
    assert skipped >= {"unsloth"}  # no card
    text = (tmp_path / "table.md").read_text()
    assert "| gradients | 12 of 12 hold |" in text
    assert str(ROOT) not in (tmp_path / "results.jsonl").read_text() + text
