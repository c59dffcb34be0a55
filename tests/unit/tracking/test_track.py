import json
import sys

import pytest
from support.tensorboard_files import scalars, texts

from effchal.config import Config, ConfigError, TrackConfig, save_config
from effchal.config.choices import WandbMode
from effchal.runs import git_commit
from effchal.tracking.names import ChartRows, chart_name, run_summary
from effchal.tracking.tracker import Tracker, check_tracking, rewind_metrics


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_record_is_on_disk_at_once(tmp_path):
    tracker = Tracker(tmp_path, TrackConfig(), "run")
    tracker.log({"step": 1, "loss": 2.5})
    assert records(tmp_path) == [{"step": 1, "loss": 2.5}]
    tracker.log({"step": 2, "loss": 2.0})
    tracker.close()
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    assert not (tmp_path / "wandb").exists()


def test_rewinding_drops_later_steps_and_a_cut_line_but_not_their_seconds(tmp_path):
    lines = [json.dumps({"step": step, "spent_s": 10.0 * step}) for step in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 6, "spe')
    assert rewind_metrics(tmp_path, step=3) == 50.0
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]
    assert rewind_metrics(tmp_path / "elsewhere", step=3) == 0.0


@pytest.mark.parametrize(
    "line", [b"5", b"{}", b'{"step": "x"}', b'{"step": NaN}', b'{"step": null}', b"\xff", b"\x00"]
)
def test_a_damaged_record_is_dropped(tmp_path, line):
    good = b'{"step": 1, "spent_s": 2.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b'\n{"step": 2, "spent_s": "x"}\n')
    assert rewind_metrics(tmp_path, step=3) == 2.0
    assert [record["step"] for record in records(tmp_path)] == [1, 2]


def test_charts_group_metrics_and_count_tokens_over_steps_and_samples():
    rows = ChartRows()
    rows.row({"step": 1, "tokens": 10, "loss": 2.0})
    rows.row({"step": 1, "samples": [{"prompt": "p", "completion": "c"}], "spent_s": 3600})
    row = rows.row({"step": 2, "tokens": 5, "loss": 1.0, "tokens_per_s": 7.0, "spent_s": 7200.0})
    expected = {"train/step": 2, "train/loss": 1.0, "speed/tokens_per_s": 7.0}
    assert row == expected | {"train/tokens": 5, "train/tokens_seen": 15, "train/hours": 2.0}
    assert rows.samples == [[1, "p", "c"]]
    names = [chart_name(key) for key in ("validation_loss", "peak_memory_gib", "epoch")]
    assert names == ["validation/loss", "memory/peak_memory_gib", "train/epoch"]


def test_a_summary_has_plan_and_actual_and_says_what_was_not_measured():
    plan = {"hours": {"predicted": [1.0, 2.0, 3.0], "actual": 2.5}, "tokens_per_s": None}
    plan["memory_gib"] = {"predicted": 5.0, "actual": None}
    summary = run_summary({"status": "finished", "validation_loss": None, "plan": plan})
    assert summary["validation/loss"] == "not measured"
    assert summary["plan/hours/predicted_low"] == 1.0
    assert summary["plan/hours/predicted"] == 2.0
    assert summary["plan/hours/actual"] == 2.5
    assert summary["plan/memory_gib/actual"] == summary["plan/tokens_per_s"] == "not measured"
    no_forecast = run_summary({"plan": {"hours": {"predicted": None, "actual": 1.0}}})
    assert "plan/hours/predicted" not in no_forecast


def test_tensorboard_hides_what_a_resumed_run_does_again(tmp_path):
    save_config(Config(), tmp_path / "config.yaml")
    cfg = TrackConfig(tensorboard=True)
    killed = Tracker(tmp_path, cfg, "run")
    for step in range(1, 6):
        killed.log({"step": step, "loss": 1.0 * step, "tokens": 10})
    killed.close()
    rewind_metrics(tmp_path, step=3)
    resumed = Tracker(tmp_path, cfg, "run", step=3)
    resumed.log({"step": 4, "loss": 40.0, "tokens": 10})
    samples = [{"prompt": "Who?", "completion": "I."}]
    resumed.log({"step": 4, "samples": samples, "spent_s": 2.0})
    resumed.close()
    shown = scalars(tmp_path / "tensorboard")
    assert shown["train/loss"] == {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0}
    assert shown["train/tokens_seen"] == {1: 10, 2: 20, 3: 30, 4: 40}
    written = texts(tmp_path / "tensorboard")
    assert "max_seq_len" in written["config/text_summary"]
    assert "Who?\n    ---\n    I." in written["samples/completions/1/text_summary"]


@pytest.mark.parametrize(
    ("cfg", "key"),
    [
        (TrackConfig(wandb=WandbMode.offline), "track.wandb=offline needs wandb"),
        (TrackConfig(tensorboard=True), "track.tensorboard=true needs tensorboardX"),
    ],
)
def test_a_missing_package_is_refused_before_anything_starts(cfg, key, monkeypatch):
    for package in ("wandb", "tensorboardX"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.meta_path", [])
    with pytest.raises(ConfigError, match=f"{key}; pip install"):
        check_tracking(cfg)


def test_the_commit_is_a_hash_or_none():
    commit = git_commit()
    assert commit is None or len(commit) == 40
