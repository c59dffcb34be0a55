"""Sweeps whose jobs run in other processes: on the GPUs of this machine, and through Slurm."""

import os
import signal
import time

import pytest
from support import fake_slurm, forked
from support.training_runs import record

from effchal.tracking.manifest import Manifest, State

TINY = ["model=tiny", "data_mix=quickstart", "rules=none", "budget=smoke"]
TINY += ["train.examples_per_step=4", "train.warmup_steps=0"]


def sweep(folder, *words, env=None):
    return forked.Command(["train", "-m", *TINY, f"hydra.sweep.dir={folder}", *words], env=env)


def test_gpus_are_shared_out_and_a_second_call_does_what_is_left(tmp_path):
    words = ["train.max_steps=2", "train.gpus=2", "lora.r=4,0,-1"]
    five = os.environ | {"CUDA_VISIBLE_DEVICES": "1,5,6,7,8"}
    out, err = (first := sweep(tmp_path, *words, env=five)).communicate(timeout=200)
    assert first.returncode == 1, err
    assert "0 begins on GPU 1,5: lora.r=4" in err
    manifest = Manifest.load(tmp_path)
    states = [manifest.state(number) for number in manifest.jobs]
    assert states == [State.done, State.refused, State.refused]
    devices = [manifest.tries(number)[0]["device"] for number in manifest.jobs]
    assert devices == ["1,5", "6,7", "6,7"]  # the refused one frees its place at once
    assert "lora.r must be at least 1" in manifest.reason(1)
    assert "* lowest validation loss, in" in out

    out, err = sweep(tmp_path, *words[:2], "lora.r=4").communicate(timeout=60)
    assert "0 lora.r=4: done, left alone" in err
    assert len(manifest.tries(0)) == 1


def test_jobs_that_want_more_gpus_than_there_are_are_refused_before_any_begins(tmp_path):
    two = os.environ | {"CUDA_VISIBLE_DEVICES": "5,7"}
    process = sweep(tmp_path, "train.gpus=1,4", env=two)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == (
        "error: train.gpus=4, but this sweep sees 2 GPUs (5, 7); take train.gpus=2 at most\n"
    )


def test_a_job_that_slurm_warns_saves_goes_back_and_goes_on(tmp_path):
    pytest.importorskip("submitit")
    env = fake_slurm.install(tmp_path / "bin")
    words = ["train.max_steps=30", "lora.r=4,0", "hydra/launcher=submitit_slurm"]
    process = sweep(tmp_path / "sweep", *words, env=env)
    metrics = tmp_path / "sweep" / "0" / "metrics.jsonl"
    end = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(int((tmp_path / "bin" / "pid_0").read_text()), signal.SIGUSR2)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1, err  # for the job that was refused
    manifest = Manifest.load(tmp_path / "sweep")
    first, second = manifest.tries(0)
    assert (first["reason"], second["reason"]) == ("put back into the queue", None)
    assert record(tmp_path / "sweep" / "0")["status"] == "finished"
    assert manifest.state(1) is State.refused
    steps = [line for line in metrics.read_text().splitlines() if '"grad_norm"' in line]
    assert len(steps) == 30
