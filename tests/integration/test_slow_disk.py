"""A disk on which each save takes minutes: the budget is kept, and nothing is lost.

Each sync moves the run's clock on, so that no test waits.
"""

import itertools
import os
import signal
import time

import pytest
import torch
from support.training_runs import Stop, adapter, metrics, record, run

from effchal.bundle import check_bundle
from effchal.config import BudgetConfig
from effchal.config.choices import BundleOf
from effchal.runs import checkpoints
from effchal.training import loop, validation
from effchal.training.budget import WallClock

STEP_S = 16.0
LIMIT_S = 400.0


class Clock:
    """Seconds as they pass, and those that the disk and the steps would have taken."""

    def __init__(self):
        self.more_s = 0.0

    def __call__(self):
        return time.monotonic() + self.more_s


@pytest.fixture
def slow(tiny_cfg, monkeypatch):
    """A config and its clock; each sync of its run takes so many seconds, by the steps done."""

    def make(seconds_of_sync):
        clock, done = Clock(), []
        sync, train_step = os.fsync, loop.train_step

        def slow_sync(handle):
            sync(handle)
            clock.more_s += seconds_of_sync(len(done))

        def slow_step(*arguments, **options):
            done.append(train_step(*arguments, **options))
            clock.more_s += STEP_S
            return done[-1]

        monkeypatch.setattr(WallClock.__init__, "__defaults__", (None, 0.0, clock))
        monkeypatch.setattr(os, "fsync", slow_sync)
        monkeypatch.setattr(loop, "train_step", slow_step)
        tiny_cfg.budget = BudgetConfig(hours=LIMIT_S / 3600, enforce=False)
        train = tiny_cfg.train
        train.max_steps = train.epochs = 1000
        train.checkpoint_every, train.validate_every = 2, 10
        return tiny_cfg, clock

    return make


@pytest.mark.parametrize(
    ("seconds_of_sync", "least_steps"),
    [
        (lambda step: 12.0, 10),
        (lambda step: 0.5 if step < 5 else 8.0, 12),  # another program begins to write
        (lambda step: 0.5 if step < 5 else 7.5, 12),  # no time for the card, but for a validation
        (lambda step: 12.0 if step < 5 else 0.5, 10),
    ],
    ids=[
        "slow",
        "slow from the fifth step",
        "less slow from there on",
        "slow until the fifth step",
    ],
)
def test_a_slow_disk_costs_steps_and_neither_budget_nor_weights(
    slow, tmp_path, seconds_of_sync, least_steps
):
    cfg, clock = slow(seconds_of_sync)
    started = clock()
    assert run(cfg, tmp_path) == 0
    assert clock() - started < LIMIT_S
    done = record(tmp_path)
    assert done["status"] == "stopped_by_budget"
    assert done["step"] >= least_steps
    assert (done["validation_step"], "validation_loss" in done) == (done["step"], True)
    newest = checkpoints(tmp_path / "checkpoint")[0]
    assert newest.name == f"step_{done['step']:07d}.pt"
    check_bundle(tmp_path / "bundle")
    assert [line["step"] for line in metrics(tmp_path) if "loss" in line] == list(
        range(1, done["step"] + 1)
    )


def test_a_run_on_a_slow_disk_that_is_stopped_goes_on_where_it_was(slow, tmp_path):
    cfg, _ = slow(lambda step: 12.0)
    assert run(cfg, tmp_path, Stop(after_steps=7)) == 128 + signal.SIGTERM
    assert record(tmp_path)["step"] == 7  # not the sixth, whose checkpoint was too dear
    check_bundle(tmp_path / "bundle")
    assert run(cfg, tmp_path) == 0
    steps = [line["step"] for line in metrics(tmp_path) if "loss" in line]
    assert steps == list(range(1, record(tmp_path)["step"] + 1))


@pytest.mark.parametrize(
    ("seconds_of_sync", "holds_best"),
    [(lambda step: 4.0, True), (lambda step: 0.5 if step < 12 else 12.0, False)],
    ids=["slow", "slow from the twelfth step"],
)
def test_the_best_weights_take_time_that_was_kept_for_them_or_none(
    slow, tmp_path, monkeypatch, seconds_of_sync, holds_best
):
    cfg, clock = slow(seconds_of_sync)
    cfg.train.bundle, cfg.train.validate_every = BundleOf.best, 2
    cfg.budget.periodic_work_share = 1.0
    losses = itertools.chain([9.0, 1.0], itertools.count(2))  # the lowest after two steps
    monkeypatch.setattr(validation, "validation_loss", lambda *_: float(next(losses)))
    started = clock()
    assert run(cfg, tmp_path) == 0
    assert clock() - started < LIMIT_S
    done = record(tmp_path)
    assert (done["status"], done["best_step"]) == ("stopped_by_budget", 2)
    best = torch.load(tmp_path / "checkpoint" / "step_0000002.pt", weights_only=True)["parameters"]
    packaged = adapter(tmp_path)
    equal = all(torch.equal(packaged[k.replace(".default.", ".")], v) for k, v in best.items())
    assert equal == holds_best
