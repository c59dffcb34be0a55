"""Training runs of the tiny model, in this process or another."""

import json
import signal
import subprocess
import sys
import time

import torch

from effchal.planning.training_run import run as run_training
from effchal.runs import checkpoints
from effchal.training.signals import StopSignals
from support.forked import Command
from support.paths import ROOT


def run(cfg, folder, signals=None):
    """Train in this process; the exit code."""
    if signals is not None:
        return run_training(cfg, folder, signals)
    with StopSignals() as own:
        return run_training(cfg, folder, own)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def adapter(folder):
    from safetensors.torch import load_file

    return load_file(folder / "bundle" / "adapter" / "adapter_model.safetensors")


def same_weights(one, other):
    first, second = adapter(one), adapter(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def start(arguments, folder):
    """A process that trains."""
    words = ["train", *arguments, f"hydra.run.dir={folder}"]
    return Command(words, stderr=subprocess.STDOUT)


def start_fresh(arguments, folder, **options):
    """A process of its own, where its environment counts."""
    command = [sys.executable, "-m", "effchal.train", *arguments, f"hydra.run.dir={folder}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def wait_for_checkpoint(process, folder, step):
    """Block until the run wrote a checkpoint of `step` or later."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if any(int(path.stem[5:]) >= step for path in checkpoints(folder / "checkpoint")):
            return
        time.sleep(0.002)
    raise AssertionError(process.communicate(timeout=10)[0])


class Stop:
    """Stands for StopSignals and turns up after some steps."""

    def __init__(self, after_steps):
        self.patience = after_steps + 1  # the loop asks once more, before it begins

    @property
    def received(self):
        self.patience -= 1
        return signal.SIGTERM if self.patience < 0 else None


TINY = ["model=tiny", "data_mix=quickstart", "budget=smoke", "lora.dropout=0.1", "train.lr=1e-2"]
TINY += ["train.max_steps=12", "train.examples_per_step=4"]
TINY += ["train.checkpoint_every=2", "train.validate_every=4"]
