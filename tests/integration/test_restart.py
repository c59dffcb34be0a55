"""What a run keeps across restarts: kills, signals, full disks, resumes of all kinds."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
from support.paths import ROOT, SMOLLM2, needs_smollm2
from support.training_runs import (
    TINY,
    Stop,
    metrics,
    record,
    run,
    same_weights,
    start,
    wait_for_checkpoint,
)

from effchal.bundle import check_bundle
from effchal.config import BudgetConfig, ConfigError, LoraConfig, save_config
from effchal.config.choices import Optimizer
from effchal.mixing.locate import BUILTIN_DIR
from effchal.mixing.sources import DataError
from effchal.runs import checkpoints


def test_seconds_before_a_restart_count(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path)
    spent = record(tmp_path)["spent_s"]
    tiny_cfg.budget = BudgetConfig(hours=(spent + 0.5) / 3600, reserve_minutes=0.4 / 60)
    tiny_cfg.train.max_steps = 1000
    tiny_cfg.train.epochs = 1000
    assert run(tiny_cfg, tmp_path) == 0
    assert record(tmp_path)["status"] == "stopped_by_budget"
    assert record(tmp_path)["step"] <= 8


@pytest.mark.parametrize("optimizer", [Optimizer.adamw, Optimizer.adamw8bit, Optimizer.lion8bit])
def test_stop_and_resume_equals_not_stopping(tiny_cfg, tmp_path, optimizer):
    tiny_cfg.train.optimizer = optimizer
    # Large enough for 8-bit states, and random numbers in each step.
    tiny_cfg.lora = LoraConfig(r=64, dropout=0.2)
    run(tiny_cfg, tmp_path / "whole")
    assert run(tiny_cfg, tmp_path / "parts", Stop(after_steps=3)) == 128 + signal.SIGTERM
    assert record(tmp_path / "parts")["status"] == "interrupted"
    assert record(tmp_path / "parts")["step"] == 3
    check_bundle(tmp_path / "parts" / "bundle")
    assert run(tiny_cfg, tmp_path / "parts") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    whole, parts = record(tmp_path / "whole"), record(tmp_path / "parts")
    keys = ("step", "tokens", "target_tokens", "train_loss")
    for key in (*keys, "validation_loss_before", "validation_loss"):
        assert whole[key] == parts[key]
    steps = [line["step"] for line in metrics(tmp_path / "parts") if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def check_killed_and_resumed_equals_not_killed(arguments, kill_after, steps, tmp_path):
    """SIGKILL from outside, through the command line."""
    whole = start(arguments, tmp_path / "whole")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output
    killed = start(arguments, tmp_path / "killed")
    for step in kill_after:
        wait_for_checkpoint(killed, tmp_path / "killed", step)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "run.json").exists()
        killed = start([f"resume_from={tmp_path / 'killed'}"], tmp_path / "unused")
    output, _ = killed.communicate(timeout=300)
    assert killed.returncode == 0, output
    assert "resumed from" in output
    assert same_weights(tmp_path / "whole", tmp_path / "killed")
    whole_record, killed_record = record(tmp_path / "whole"), record(tmp_path / "killed")
    assert killed_record["validation_loss"] == whole_record["validation_loss"]
    logged = [line["step"] for line in metrics(tmp_path / "killed") if "loss" in line]
    assert logged == list(range(1, steps + 1))


def test_killed_twice_and_resumed_gives_the_same_bits(tmp_path):
    arguments = [*TINY, "train.max_steps=24", "train.epochs=100", "train.validate_every=12"]
    check_killed_and_resumed_equals_not_killed(arguments, (2, 6), 24, tmp_path)


@needs_smollm2
def test_the_real_model_killed_and_resumed_gives_the_same_bits(tmp_path):
    arguments = [
        "experiment=quickstart",
        "lora.dropout=0.1",
        "data_mix.validation_fraction=0.01",
        "train.max_steps=2",
        "train.samples=[]",
        "model.max_seq_len=128",
    ]
    arguments += [f"model.name={SMOLLM2}", "train.examples_per_step=2", "train.checkpoint_every=1"]
    check_killed_and_resumed_equals_not_killed(arguments, (1,), 2, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_interrupted(tmp_path, number):
    process = start([*TINY, "train.max_steps=100000", "train.epochs=100000"], tmp_path)
    wait_for_checkpoint(process, tmp_path, 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number, output
    done = record(tmp_path)
    assert done["status"] == "interrupted"
    assert checkpoints(tmp_path / "checkpoint")[0].name == f"step_{done['step']:07d}.pt"
    check_bundle(tmp_path / "bundle")


def test_a_resumed_run_keeps_its_config_but_for_the_budget(tiny_cfg, tmp_path):
    tiny_cfg.train.max_steps = 2
    run(tiny_cfg, tmp_path, Stop(after_steps=1))
    before = (tmp_path / "config.yaml").read_text()
    refused = start([f"resume_from={tmp_path}", "train.lr=1"], tmp_path / "unused")
    output, _ = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert "train.lr is frozen in" in output
    assert "(there 0.01, here 1.0)" in output
    assert (tmp_path / "config.yaml").read_text() == before
    same = "train.lr=0.01"  # typed again
    resumed = start([f"resume_from={tmp_path}", "budget.hours=2", same], tmp_path / "unused")
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    tiny_cfg.budget.hours = 2.0
    save_config(dataclasses.replace(tiny_cfg), tmp_path / "expected.yaml")
    assert (tmp_path / "config.yaml").read_text() == (tmp_path / "expected.yaml").read_text()
    nowhere = start([f"resume_from={tmp_path}/nowhere"], tmp_path / "unused")
    output, _ = nowhere.communicate(timeout=300)
    assert nowhere.returncode == 2
    assert "nowhere/config.yaml does not exist" in output
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_with_a_run_is_not_run_into_by_accident(tiny_cfg, tmp_path):
    tiny_cfg.train.max_steps = 2
    run(tiny_cfg, tmp_path)
    before = {name: (tmp_path / name).read_text() for name in ("config.yaml", "run.json")}
    again = start([*TINY, "train.lr=0.1"], tmp_path)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 2
    assert f"go on with it by resume_from={tmp_path}" in output
    assert before == {name: (tmp_path / name).read_text() for name in before}


def test_a_resume_on_other_data_is_refused(tiny_cfg, tmp_path):
    rows = tmp_path / "rows.jsonl"
    shipped = (BUILTIN_DIR / "instructions.jsonl").read_text().splitlines(keepends=True)
    rows.write_text("".join(shipped))
    tiny_cfg.data_mix.sources = {"s": tiny_cfg.data_mix.sources["tasks"]}
    tiny_cfg.data_mix.sources["s"].path = str(rows)
    run(tiny_cfg, tmp_path / "run", Stop(after_steps=2))
    rows.write_text("".join(shipped[:40]))
    with pytest.raises(DataError, match="the data mix is not the one that"):
        run(tiny_cfg, tmp_path / "run")
    rows.write_text("".join(shipped))
    assert run(tiny_cfg, tmp_path / "run") == 0


def test_checkpoints_that_are_all_damaged_are_no_fresh_start(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path, Stop(after_steps=3))
    records = (tmp_path / "metrics.jsonl").read_text()
    for path in checkpoints(tmp_path / "checkpoint"):
        path.write_bytes(b"noise")
    with pytest.raises(ConfigError, match=r"no checkpoint in .* can be read"):
        run(tiny_cfg, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == records


def test_seconds_of_a_process_killed_before_its_checkpoint_are_not_forgotten(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path, Stop(after_steps=2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "loss": 1.0, "spent_s": 100.0}) + "\n")
    for _ in range(2):
        run(tiny_cfg, tmp_path, Stop(after_steps=0))
        assert record(tmp_path)["spent_s"] > 100.0


def test_a_second_process_on_the_same_folder_is_refused(tmp_path):
    from effchal.runs import run_lock

    with run_lock(tmp_path):
        code = (
            "import sys; from pathlib import Path; from effchal.runs import run_lock\n"
            "with run_lock(Path(sys.argv[1])): pass"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
        )
        assert f"is in use by process {os.getpid()}" in result.stderr
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT).returncode == 0
