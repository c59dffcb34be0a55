"""A run and its plan: refused before it starts, compared at its end."""

import json
import re

import pytest
import yaml
from support.training_runs import record, run

from effchal.config import BudgetConfig, ConfigError, LoraConfig
from effchal.mixing.prepare import prepare_data
from effchal.planning.history import records_file
from effchal.planning.outcome import plan_run
from effchal.planning.report import screen
from effchal.runs import read_json_lines


@pytest.mark.integration
def test_a_run_that_cannot_fit_is_refused_before_the_model_is_loaded(
    tiny_cfg, tmp_path, monkeypatch
):
    monkeypatch.setattr("effchal.planning.machine.free_host_memory", lambda: -(2**40))
    with pytest.raises(ConfigError, match=r"the run does not fit: .* GiB.*budget\.enforce=false"):
        run(tiny_cfg, tmp_path / "a")
    assert not (tmp_path / "a" / "checkpoint").exists()
    tiny_cfg.budget.enforce = False
    assert run(tiny_cfg, tmp_path / "b") == 0


@pytest.mark.integration
def test_a_run_learns_from_the_ones_before(tiny_cfg, tmp_path):
    tiny_cfg.train.max_steps, tiny_cfg.train.epochs = 8, 4
    assert run(tiny_cfg, tmp_path / "a") == 0
    first = record(tmp_path / "a")["plan"]
    assert first["hours"]["predicted"] is None
    assert first["memory_gib"]["actual"] > 0
    assert record(tmp_path / "a")["peak_reserved_gib"] is None  # a GPU's
    (kept,) = read_json_lines(records_file())
    assert kept["memory_limit"] > kept["memory"]  # it went through within the limit
    assert run(tiny_cfg, tmp_path / "b") == 0
    second = record(tmp_path / "b")["plan"]
    assert second["hours"]["by"].startswith("1 run of this kind")
    assert second["tokens"]["predicted"] == second["tokens"]["actual"]
    tiny_cfg.train.max_steps, tiny_cfg.train.epochs = None, 20_000
    tiny_cfg.budget = BudgetConfig(hours=0.01)
    with pytest.raises(ConfigError, match=r"would fit: .*train\.max_steps=\d+"):
        run(tiny_cfg, tmp_path / "c")


@pytest.mark.integration
def test_auto_takes_the_largest_micro_batch_that_fits(tiny_cfg, tmp_path, monkeypatch):
    tiny_cfg.train.micro_batch_size = "auto"
    tiny_cfg.model.max_seq_len = 64
    assert run(tiny_cfg, tmp_path / "a") == 0
    most = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["train"]["micro_batch_size"]
    assert 1 < most <= tiny_cfg.train.examples_per_step


def test_a_plan_is_left_beside_the_run(tiny_cfg, tmp_path):
    tiny_cfg.lora = LoraConfig(r=4)
    plan = plan_run(tiny_cfg, prepare_data(tiny_cfg, tmp_path), tmp_path)
    saved = json.loads((tmp_path / "plan.json").read_text())
    assert saved["memory_needed"] == plan.memory_needed
    assert saved["workload"]["steps"] == 6
    steps = "6 steps of 4 examples, [0-9,]+ tokens, by the data itself"
    assert re.search(
        rf"{steps} \(0\.143 epochs by train\.max_steps\)", screen(plan, tiny_cfg, None)
    )
