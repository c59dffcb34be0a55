import json
import sys

import pytest
import wandb_workspace

from effchal.tracking import names


def named(kind):
    parts = [part for parts in wandb_workspace.layout().values() for part in parts]
    return {name for part in parts if part["kind"] == kind for name in part["metrics"]}


def test_curves_and_bars_name_what_the_mirror_sends():
    record = {"step": 1, "loss": 1.0, "grad_norm": 1.0, "tokens": 9, "target_tokens": 4}
    record |= {"lr": 1e-4, "tokens_per_s": 5.0, "validation_loss": 1.0, "spent_s": 2.0}
    row = names.ChartRows().row(record)
    assert named("lines") <= row.keys()
    axes = {part["x"] for part in wandb_workspace.layout()["Loss"]}
    assert len(axes) == 3
    assert axes <= row.keys()
    both = {"predicted": 1.0, "actual": 2.0}
    hours = {"predicted": [1.0, 2.0, 3.0], "actual": 2.0}
    plan = {"memory_gib": both, "hours": hours, "tokens": both}
    summary = names.run_summary({"plan": plan})
    assert named("bars") <= summary.keys()
    assert named("table") == {names.SAMPLES, names.RESULTS}


def test_a_dry_run_prints_the_layout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wandb_workspace.py", "team/effchal", "--dry-run"])
    wandb_workspace.main()
    sections = json.loads(capsys.readouterr().out)["sections"]
    wanted = ["Loss", "Validation", "Speed and memory", "Plan against actual", "Samples"]
    assert list(sections) == [*wanted, "Evaluation"]


def test_a_project_without_an_entity_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wandb_workspace.py", "effchal", "--dry-run"])
    with pytest.raises(SystemExit, match="2"):
        wandb_workspace.main()
    assert "give <entity>/<project>" in capsys.readouterr().err


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setattr(sys, "argv", ["wandb_workspace.py", "team/effchal"])
    with pytest.raises(SystemExit, match="pip install wandb-workspaces"):
        wandb_workspace.main()
