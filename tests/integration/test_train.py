import json
import re
import subprocess
import sys
import time

import pytest
import torch
from support.paths import ROOT
from support.training_runs import TINY, adapter, metrics, record, run, same_weights, start

from effchal.bundle import check_bundle
from effchal.config import BudgetConfig, ConfigError, DecodingConfig
from effchal.config.choices import DecodingMethod, Schedule
from effchal.runs import checkpoints
from effchal.training import loop, step
from effchal.training.budget import WallClock


def test_a_run_leaves_what_the_design_says(tiny_cfg, tmp_path):
    tiny_cfg.budget.periodic_work_share = 1.0  # or a busy machine leaves out a validation
    assert run(tiny_cfg, tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    files = {
        "config.yaml",
        "mix.json",
        "mix.md",
        "mix.png",
        "plan.json",
        "metrics.jsonl",
        "run.json",
    }
    assert names == files | {"checkpoint", "bundle"}
    check_bundle(tmp_path / "bundle")
    done = record(tmp_path)
    assert (done["status"], done["step"], done["steps_planned"]) == ("finished", 6, 6)
    assert done["validation_loss"] < done["validation_loss_before"]
    assert done["tokens"] > done["target_tokens"] > 0
    steps = [line for line in metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert {"lr", "grad_norm", "tokens_per_s", "spent_s"} <= set(steps[0])
    validation = [line["step"] for line in metrics(tmp_path) if "validation_loss" in line]
    assert validation == [0, 3, 6]


def test_the_log_has_one_line_a_step_in_the_same_order(tiny_cfg, tmp_path, caplog):
    run(tiny_cfg, tmp_path)
    pattern = (
        r"step 2/6 \| loss \d\.\d{3} \| lr \d\.\de-\d\d \| grad \d+\.\d\d "
        r"\| [\d.]+k? tok/s \| [\d.]+min of 1\.0h"
    )
    assert re.search(pattern, caplog.text)


def test_the_same_config_gives_the_same_weights(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path / "a")
    run(tiny_cfg, tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    tiny_cfg.train.seed = 1
    run(tiny_cfg, tmp_path / "c")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_the_budget_ends_a_run_in_time_with_a_bundle(tiny_cfg, tmp_path, monkeypatch):
    limit_s, reserve_s = 8.0, 2.0
    tiny_cfg.budget = BudgetConfig(hours=limit_s / 3600, reserve_minutes=reserve_s / 60)
    tiny_cfg.train.max_steps, tiny_cfg.train.epochs = None, 1000
    start = time.monotonic()
    assert run(tiny_cfg, tmp_path) == 0
    assert time.monotonic() - start < limit_s
    done = record(tmp_path)
    assert done["status"] == "stopped_by_budget"
    assert 0 < done["step"] < done["steps_planned"]
    check_bundle(tmp_path / "bundle")


def test_a_non_finite_step_fails_the_run_and_keeps_what_was_trained(
    tiny_cfg, tmp_path, monkeypatch
):
    good, calls = step.target_loss, []

    def target_loss(model, micro_batch):
        calls.append(micro_batch)
        loss = good(model, micro_batch)
        return loss * float("nan") if torch.is_grad_enabled() and len(calls) > 12 else loss

    monkeypatch.setattr(step, "target_loss", target_loss)
    assert run(tiny_cfg, tmp_path) == 1
    done = record(tmp_path)
    assert done["status"] == "failed"
    assert 0 < done["step"] < 6
    assert calls[-1].example_ids[0] in done["error"]
    assert all(torch.isfinite(tensor).all() for tensor in adapter(tmp_path).values())
    assert checkpoints(tmp_path / "checkpoint")


def test_warm_up_of_more_than_a_fifth_is_warned_about(tiny_cfg, tmp_path, caplog):
    tiny_cfg.train.warmup_steps = 5
    run(tiny_cfg, tmp_path)
    assert "train.warmup_steps=5 is more than a fifth of the 6 steps" in caplog.text


def test_no_validation_example_is_a_run_without_validation(tiny_cfg, tmp_path):
    tiny_cfg.data_mix.validation_fraction = 0.0
    assert run(tiny_cfg, tmp_path) == 0
    assert record(tmp_path)["validation_loss"] is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data_mix.sources.quickstart_instructions.path=nope.jsonl"], "no file nope.jsonl"),
        (["model.name=./nowhere"], "error: model.name: no folder ./nowhere"),
        (["lora.target_modules=[query]"], "error: lora.target_modules has ['query']"),
        (["model.attention=sdpa"], "unknown key model.attention; leave it out: torch's own"),
    ],
)
def test_bad_input_is_one_line_before_any_work(tmp_path, overrides, message):
    process = start([*TINY, *overrides], tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert message in output
    assert "Traceback" not in output


def test_each_run_of_a_sweep_has_a_budget_of_its_own(tmp_path):
    command = [sys.executable, "-m", "effchal.train", "-m", *TINY]
    command += ["train.max_steps=2", "lora.r=4,8"]
    subprocess.run(
        [*command, f"hydra.sweep.dir={tmp_path}"], cwd=ROOT, check=True, capture_output=True
    )
    first, second = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in "01"
    )
    assert record(tmp_path / "1")["status"] == "finished"
    assert first["spent_s"] > 1.0  # the interpreter and its imports
    assert second["spent_s"] < first["spent_s"]


def test_a_step_that_stalls_ends_the_run_in_time_and_annealed(
    tiny_cfg, tmp_path, monkeypatch, caplog
):
    tiny_cfg.budget = BudgetConfig(hours=12 / 3600, enforce=False)
    train = tiny_cfg.train
    train.packing, train.examples_per_step, train.warmup_steps = False, 16, 1
    real, begun, calls = step.target_loss, time.monotonic(), []

    def stalling(*args):
        if torch.is_grad_enabled():
            calls.append(args)
            if len(calls) > 16:  # from the second step on, which would take longer than there is
                time.sleep(1.0)
        return real(*args)

    monkeypatch.setattr(step, "target_loss", stalling)
    assert run(tiny_cfg, tmp_path) == 0
    assert (
        time.monotonic() - begun < 13
    )  # the whole step takes 16 s; a busy machine may stretch what was measured
    done = record(tmp_path)
    assert (done["status"], done["step"]) == ("stopped_by_budget", 2)
    assert done["lr"] == pytest.approx(tiny_cfg.train.lr * tiny_cfg.train.min_lr_fraction)
    assert "was cut short" in caplog.text


def test_a_first_step_cut_short_in_warm_up_keeps_its_rate(tiny_cfg, tmp_path, monkeypatch):
    tiny_cfg.budget.enforce = False
    train = tiny_cfg.train
    train.packing, train.warmup_steps, train.schedule = False, 5, Schedule.constant
    monkeypatch.setattr(WallClock, "must_cut", lambda clock, under_way: True)
    assert run(tiny_cfg, tmp_path) == 0
    done = record(tmp_path)
    assert (done["status"], done["step"]) == ("stopped_by_budget", 1)
    assert done["lr"] == pytest.approx(tiny_cfg.train.lr / 5)
    check_bundle(tmp_path / "bundle")


def test_any_other_end_is_recorded_as_failed(tiny_cfg, tmp_path, monkeypatch):
    def out_of_memory(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(loop, "train_step", out_of_memory)
    with pytest.raises(MemoryError):
        run(tiny_cfg, tmp_path)
    assert (record(tmp_path)["status"], record(tmp_path)["error"]) == (
        "failed",
        "MemoryError: no room",
    )


def test_layers_that_the_model_lacks_end_a_run_before_its_first_step(tiny_cfg, tmp_path):
    tiny_cfg.decoding = DecodingConfig(method=DecodingMethod.dola, premature_layers=[2])
    with pytest.raises(ConfigError, match=r"decoding\.premature_layers has \[2\].*0\.\.1"):
        run(tiny_cfg, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
