import json
import time

import pytest

from effchal.config import TrackConfig
from effchal.config.choices import WandbMode
from effchal.runs import git_commit
from effchal.tracking.tracker import Tracker, rewind_metrics


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_record_is_on_disk_at_once(tmp_path):
    tracker = Tracker(tmp_path, TrackConfig(), "run", {})
    tracker.log({"step": 1, "loss": 2.5})
    assert records(tmp_path) == [{"step": 1, "loss": 2.5}]
    tracker.log({"step": 2, "loss": 2.0})
    tracker.close(wait_s=1)
    assert [record["step"] for record in records(tmp_path)] == [1, 2]


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


@pytest.mark.integration
def test_wandb_offline_mirrors_the_record_and_the_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for number in range(5):
        (bundle / f"bundle_file_{number}").write_text(str(number))
    config = {f"key_{number}": f"config_value_{number}" for number in range(5)}
    tracker = Tracker(tmp_path, TrackConfig(wandb=WandbMode.offline), "run", config)
    for step in range(5):
        tracker.log({"step": step, "loss": 3.0 - step})
    tracker.log_bundle(bundle)
    tracker.summarise({"validation_loss": None})
    tracker.close(wait_s=120)
    (written,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = written.read_bytes()
    for word in (b"config_value_", b"loss", b"bundle_file_"):
        assert content.count(word) >= 4, (
            word
        )  # of 5: a block's border in the file may cut one in two
    assert b"not measured" in content
    assert len(records(tmp_path)) == 5


def test_a_dead_network_neither_stops_nor_slows_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Tracker(tmp_path, TrackConfig(wandb=WandbMode.online), "run", {})
    start = time.monotonic()
    for step in range(100):
        tracker.log({"step": step, "loss": 1.0})
    assert time.monotonic() - start < 3.0
    tracker.close(wait_s=2)
    assert time.monotonic() - start < 8.0
    assert len(records(tmp_path)) == 100


def test_the_commit_is_a_hash_or_none():
    commit = git_commit()
    assert commit is None or len(commit) == 40
