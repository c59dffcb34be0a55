"""Successive halving: who goes on, with which budget, and what a second call does."""

import json

import pytest

from effchal.config import ConfigError
from effchal.sweeping.halving import SHARE, Halving
from effchal.tracking.manifest import Manifest, State

LOSSES = {0: 3.0, 1: 2.0, 2: None, 3: 1.0, 4: 4.0, 5: 2.5}


class Trainings:
    """Stands for a sweep whose trainings use their whole budget in no time."""

    def __init__(self, folder, places=2):
        self.manifest = Manifest(folder, "train", {n: [f"lora.r={n}"] for n in LOSSES})
        self.places, self.launched = places, []
        self.killed = self.in_process = False

    def hours_of(self, number):
        return 24.0

    def launch(self, numbers, extra):
        hours = {n: float(extra[n][0].partition("=")[2]) for n in numbers}
        self.launched.append(hours)
        for n in numbers:
            leave(self.manifest.folder_of(n), hours[n], LOSSES[n])
            if self.killed:
                raise KeyboardInterrupt


def leave(folder, hours, loss):
    (folder / "bundle").mkdir(parents=True, exist_ok=True)
    for name in ("manifest.json", "config.yaml"):
        (folder / "bundle" / name).touch()
    record = {"status": "stopped_by_budget", "limit_s": 3600 * hours, "spent_s": 3600 * hours}
    (folder / "run.json").write_text(json.dumps(record | {"validation_loss": loss}))


def test_the_best_go_on_with_larger_budgets_inside_the_hours(tmp_path):
    sweep = Trainings(tmp_path)
    Halving(sweep, 12.0, 2).run(list(LOSSES))
    assert [list(hours) for hours in sweep.launched] == [list(LOSSES), [3, 1, 5], [3]]
    first, second, last = sweep.launched
    # A third of the hours in three waves of two; then half of them in two waves; then all.
    assert first[0] == pytest.approx(SHARE * 12 / 3 / 3, rel=1e-3)
    assert second[3] == pytest.approx(first[3] + SHARE * 12 / 2 / 2, rel=1e-3)
    assert last[3] == pytest.approx(second[3] + SHARE * 12, rel=1e-3)
    rungs = json.loads((tmp_path / "sweep.json").read_text())["rungs"]
    assert rungs[0]["losses"]["2"] is None
    assert [rung["jobs"] for rung in rungs] == [list(LOSSES), [3, 1, 5], [3]]


def test_a_rung_that_was_cut_is_taken_up_with_its_budgets(tmp_path):
    sweep = Trainings(tmp_path)
    sweep.killed = True
    with pytest.raises(KeyboardInterrupt):
        Halving(sweep, 12.0, 2).run(list(LOSSES))
    again = Trainings(tmp_path)
    again.manifest = Manifest.load(tmp_path)
    Halving(again, 12.0, 2).run(list(LOSSES))
    assert list(again.launched[0]) == [1, 2, 3, 4, 5]  # the first was done
    assert again.launched[0][1] == sweep.launched[0][1]
    with pytest.raises(ConfigError, match="began with other trainings"):
        Halving(again, 12.0, 2).run([0, 1])


def test_no_hour_is_left_for_a_rung_that_would_begin_too_late(tmp_path, caplog):
    sweep = Trainings(tmp_path)
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "spent_s").write_text("7300")
    Halving(sweep, 2.0, 3).run(list(LOSSES))
    assert sweep.launched == []
    assert "sweep.hours are over before rung 1 of 3" in caplog.text
    assert sweep.manifest.state(0) is State.new
