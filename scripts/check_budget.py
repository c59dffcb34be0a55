"""Runs that stall, against their limit: python scripts/check_budget.py [--runs 40]

Each run has a limit of 5 to 60 s, steps that stall at random, and slow saves. In every other
run the machine becomes many times slower in the second half, so that one step takes a third
of the limit. A run must end inside its limit, with a valid bundle and its learning rate at
the floor. One JSON line at the end; the exit status is 1 if any run failed.
"""

import argparse
import contextlib
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from effchal.bundle import base_of_bundle
from effchal.cli.compose import compose_config
from effchal.config import BudgetConfig
from effchal.planning.training_run import run
from effchal.training import loop, saving, step
from effchal.training.signals import StopSignals

LEAST_S, MOST_S = 5.0, 60.0


def slowed(function, draw: random.Random, usual_s: float, chance: float, worst_s: float):
    """`function`, with a sleep before it: short as a rule, long now and then."""

    def slow(*args, **options):
        time.sleep(draw.uniform(0.2, 1.0) * (worst_s if draw.random() < chance else usual_s))
        return function(*args, **options)

    return slow


def slow_machine(function, from_s: float, sleep_s: float):
    """`function`, with a sleep before each training call from `from_s` on."""
    start = time.monotonic()

    def slow(*args):
        if torch.is_grad_enabled() and time.monotonic() - start > from_s:
            time.sleep(sleep_s)
        return function(*args)

    return slow


def one_run(seed: int, folder: Path) -> dict:
    draw = random.Random(seed)
    limit_s = draw.uniform(LEAST_S, MOST_S)
    cfg = compose_config(["model=tiny", "data_mix=quickstart", "rules=none", "train.epochs=1000"])
    # enforce=False: what earlier runs took must not refuse this one.
    cfg.budget = BudgetConfig(hours=limit_s / 3600, enforce=False)
    cfg.train.examples_per_step, cfg.train.warmup_steps, cfg.train.packing = 16, 3, False
    cfg.train.validate_every = cfg.train.checkpoint_every = 5
    slow_save = draw.uniform(0.0, 0.05) * limit_s
    stall_s = 0.1 * limit_s
    with contextlib.ExitStack() as patches:

        def patch(module, name, slow_function):
            patches.enter_context(mock.patch.object(module, name, slow_function))

        patch(loop, "train_step", slowed(loop.train_step, draw, 0.05, 0.05, stall_s))
        for name in ("save_checkpoint", "write_bundle"):
            patch(saving, name, slowed(getattr(saving, name), draw, slow_save, 0.0, 0.0))
        if seed % 2:
            from_s = draw.uniform(0.5, 0.9) * limit_s
            patch(step, "target_loss", slow_machine(step.target_loss, from_s, 0.02 * limit_s))
        start = time.monotonic()
        with StopSignals() as signals:
            code = run(cfg, folder, signals)
    seconds = time.monotonic() - start
    record = json.loads((folder / "run.json").read_text())
    base_of_bundle(folder / "bundle", None)  # raises if a byte is wrong
    floor = cfg.train.lr * cfg.train.min_lr_fraction
    return {
        "limit_s": limit_s,
        "seconds": seconds,
        "in_time": seconds < limit_s,
        "annealed": abs(record["lr"] / floor - 1) < 1e-6,
        "ended": code == 0 and record["status"] == "stopped_by_budget",
        "steps": record["step"],
        "unused": 1 - seconds / limit_s,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first_seed, options.first_seed + options.runs):
            found.append(one_run(seed, Path(folder) / str(seed)))
            print(json.dumps({"seed": seed} | found[-1]), flush=True)
    totals = {key: sum(run[key] for run in found) for key in ("in_time", "annealed", "ended")}
    unused = max(found, key=lambda run: run["unused"])
    result = {"runs": len(found), **totals, "largest_share_unused": round(unused["unused"], 3)}
    print("RESULT", json.dumps(result | {"of_a_limit_of_s": round(unused["limit_s"], 1)}))
    return int(any(total < len(found) for total in totals.values()))


if __name__ == "__main__":
    sys.exit(main())
