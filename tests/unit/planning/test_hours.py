"""Sizes and hours of a run, and the records that they follow from."""

import dataclasses

import pytest
from support.configs import compose_config

from effchal.config import BudgetConfig, Config, TrainConfig
from effchal.planning.cards import Card
from effchal.planning.flops import Cost
from effchal.planning.history import Record, keep_record, records_file, records_of
from effchal.planning.hours import USUAL, Timing, measured_hours, public_hours
from effchal.planning.workload import MicroBatchSize, Workload, stated_workload
from effchal.training.budget import Pace

GIB = 2**30


def test_stated_sizes_count_where_the_data_is_not_at_hand():
    cfg = compose_config(["model=mistral_7b", "data_mix=lima_platypus"])
    work = stated_workload(cfg)
    assert work.steps > 100
    assert work.tokens > 1e6
    cfg.train.epochs = 1.5
    half = stated_workload(cfg)
    assert (half.epochs, half.tokens) == (
        pytest.approx(1.5, rel=1e-3),
        pytest.approx(work.tokens / 2),
    )
    cfg.train.max_steps = 2 * work.steps  # of 3 epochs
    longer = stated_workload(cfg)
    assert longer.steps == 2 * work.steps
    assert longer.epochs == pytest.approx(6, rel=0.01)
    assert longer.tokens == pytest.approx(2 * work.tokens, rel=0.01)
    cfg.data_mix.sources["lima"].tokens = None
    cfg.train.max_steps = None
    assert stated_workload(cfg).steps is None


def measured(**changes):
    record = Record(
        source="run",
        kind={"a": 1},
        tokens_per_s=100.0,
        spread=0.01,
        start_s=10.0,
        validation_tokens_per_s=400.0,
        save_s=1.0,
        memory=3 * GIB,
        memory_planned=2 * GIB,
    )
    return dataclasses.replace(record, **changes)


def test_runs_count_before_probes_and_the_newest_first():
    keep_record(measured(source="probe", tokens_per_s=50.0))
    assert [r.tokens_per_s for r in records_of({"a": 1})] == [50.0]
    for speed in range(100, 107):
        keep_record(measured(tokens_per_s=float(speed)))
    keep_record(measured(kind={"a": 2}))
    with records_file().open("a") as file:
        file.write('{"source": "run", "ki')  # cut off
    assert [r.tokens_per_s for r in records_of({"a": 1})] == [106.0, 105.0, 104.0, 103.0, 102.0]


def test_hours_add_up():
    cfg = Config(
        train=TrainConfig(validate_every=10, checkpoint_every=20),
        budget=BudgetConfig(periodic_work_share=0.5),
    )
    size = MicroBatchSize(100, 50, 100)
    work = Workload("", 100, 36_000, size, size, validation_tokens=800)
    hours = measured_hours(cfg, work, [measured()])
    # start, steps, 9 validations and 4 checkpoints between steps; first and last validation,
    # dry run and last save
    assert hours.expected * 3600 == pytest.approx(10 + 360 + 9 * 2 + 4 * 1 + 2 * 2 + 2 * 1)
    assert hours.low < hours.expected < hours.high
    cfg.budget.periodic_work_share = 0.01
    assert Timing(100.0, 10.0, 2.0, 1.0).total_s(cfg, work) == pytest.approx(
        10 + 360 + 370 / 99 + 4 + 2
    )


def test_pace_leaves_the_first_step_out():
    pace = Pace()
    pace.add(10, 100.0)
    assert pace.tokens_per_s is None
    pace.add(100, 1.0)
    pace.add(100, 3.0)
    assert (pace.tokens_per_s, pace.steps) == (50.0, 3)
    assert pace.spread > 0.3


CARD = Card("RTX 0000", ("rtx 0000",), 24.0, bandwidth=1000, tflops=100, tflops_float32=50)
SIZE = MicroBatchSize(100, 50, 100)
WORK = Workload("", 100, 10_000_000, SIZE, SIZE, validation_tokens=0)


def estimated(dtype="bfloat16", card=CARD, **changes):
    """Seconds of a token beyond the start and the end."""
    cost = Cost(1e9, 3e9, forward_traffic=0.0, training_traffic=0.0, launches=0.0)
    cfg = compose_config(["model=tiny", f"model.dtype={dtype}", "train.checkpoint_every=1000"])
    hours = public_hours(cfg, WORK, card, dataclasses.replace(cost, **changes))
    return (hours.expected - hours.fixed) * 3600 / WORK.tokens, hours


def test_products_take_their_rate_and_all_else_its_bytes():
    products, _ = estimated()
    assert products == pytest.approx(3e9 / (USUAL.products * 100e12), rel=1e-6)
    moved = 1e6 / (USUAL.bandwidth * 1e12)
    assert estimated(training_traffic=1e6)[0] == pytest.approx(products + moved, rel=1e-6)
    wide = dataclasses.replace(CARD, bandwidth=2000)
    assert estimated(card=wide, training_traffic=1e6)[0] == pytest.approx(products + moved / 2)
    assert estimated("float32")[0] == pytest.approx(2 * products)


def test_a_small_model_waits_for_the_host():
    assert estimated(launches=1e-6)[0] == estimated()[0]
    assert estimated(launches=100.0)[0] == pytest.approx(100 * USUAL.launch_s)


def test_hours_of_a_data_sheet_say_that_nothing_was_measured():
    _, hours = estimated()
    assert hours.low < hours.expected < hours.high
    assert "the data sheet of RTX 0000 (100 TFLOP/s, 1,000 GB/s)" in hours.source
    assert hours.source.endswith("estimated, not measured on this card")
