"""Several processes train as one does: the same losses, one clock, a checkpoint for any number."""

import json
import time
from functools import partial

import pytest
from support import forked, ranks

SIX = ("train.max_steps=6", "train.validate_every=3", "train.examples_per_step=12")
FORTY = ("train.max_steps=40", "train.validate_every=100", "train.examples_per_step=6")
SHARES = [(2, "data"), (2, "fsdp"), (4, "data"), (4, "fsdp")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    return ranks.train(1, *SIX, folder=folder)


@pytest.mark.parametrize(("size", "parallel"), SHARES)
def test_losses_are_those_of_one_process(alone, tmp_path, size, parallel):
    words = (*SIX, f"train.parallel={parallel}")
    found = ranks.train(size, *words, folder=tmp_path / "run")
    assert ranks.losses(found) == pytest.approx(ranks.losses(alone), abs=1e-5, rel=0)
    counted = [(record.get("tokens"), record.get("target_tokens")) for record in found]
    assert counted == [(record.get("tokens"), record.get("target_tokens")) for record in alone]


def test_four_bit_weights_are_sharded_too(tmp_path):
    words = (*SIX, "model.quantization=nf4")
    alone = ranks.train(1, *words, folder=tmp_path / "alone")
    found = ranks.train(2, *words, "train.parallel=fsdp", folder=tmp_path / "run")
    assert ranks.losses(found) == pytest.approx(ranks.losses(alone), abs=1e-5, rel=0)


def test_sharded_ranks_without_memory_do_the_step_again_in_smaller_micro_batches(alone, tmp_path):
    words = (*SIX, "train.parallel=fsdp", "train.micro_batch_size=8")
    found = ranks.train(
        4, *words, folder=tmp_path / "run", before=partial(ranks.lack_memory_once, tmp_path)
    )
    planted = ("activations", "chunked_loss", "mlp_backward")
    assert all((tmp_path / name).exists() for name in planted)
    assert ranks.losses(found) == pytest.approx(ranks.losses(alone), abs=1e-5, rel=0)
    steps = [record for record in found if "loss" in record]
    assert all(record["micro_batch_divisor"] > 1 for record in steps)
    assert len(steps) == 6


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    return ranks.train(1, *FORTY, folder=folder)


def wait_for_steps(folder, count, process):
    until = time.monotonic() + 100
    while len(ranks.steps(folder)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("victim", "parallel", "size"), [(1, "fsdp", 3), (0, "data", 1)], ids=["rank 1", "rank 0"]
)
def test_a_rank_that_dies_leaves_a_checkpoint_that_any_number_goes_on_from(
    uninterrupted, tmp_path, victim, parallel, size
):
    folder = tmp_path / "run"
    processes = ranks.start(2, *FORTY, f"train.parallel={parallel}", folder=folder)
    wait_for_steps(folder, 3, processes[0])
    processes[victim].kill()
    survivor = processes[1 - victim]
    told = survivor.communicate(100)[1]
    assert survivor.returncode == 1, told
    assert "go on with: effchal train" in told
    (checkpoint,) = (folder / "checkpoint").glob("step_*.pt")
    assert 3 <= int(checkpoint.stem.removeprefix("step_")) < 40
    if victim == 1:
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "failed"
        assert "another process of this run ended" in record["error"]
    resumed = ranks.train(
        size, f"resume_from={folder}", "budget.hours=0.3", "train.parallel=data", folder=folder
    )
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    steps = [record for record in uninterrupted if "loss" in record]
    resumed = [record for record in resumed if "loss" in record]
    assert [record["step"] for record in resumed] == list(range(1, 41))
    assert ranks.losses(resumed) == pytest.approx(ranks.losses(steps), abs=1e-5, rel=1e-5)


def test_train_gpus_starts_the_processes(alone, tmp_path):
    folder = tmp_path / "run"
    words = [*ranks.TINY, *SIX, "train.gpus=2", f"hydra.run.dir={folder}"]
    ended = forked.run(["train", *words])
    assert ended.returncode == 0, ended.stderr
    found = ranks.losses(ranks.records(folder))
    assert found == pytest.approx(ranks.losses(alone), abs=1e-5, rel=0)
    assert ended.stderr.count("step 6/6 |") == 2  # rank 0 alone tells its step, and its validation
