"""Kill -9, a full disk and cut checkpoints, against an undisturbed run.

    python scripts/check_restart.py [--kills 60]

Runs of builtin:tiny are killed at random moments, every third time inside a save, and then
resumed. Sometimes the newest checkpoint is cut in half before that. Each run must end with
the weights of the undisturbed run, bit for bit, and lose no more than the steps since the
last good checkpoint. As root, a run also fills a small disk of its own, and is resumed when
there is space. One JSON line at the end; the exit status is 1 if anything was wrong.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from effchal.cli.compose import compose_config
from effchal.planning.training_run import run
from effchal.runs import checkpoints, read_json_lines, run_lock
from effchal.training import saving
from effchal.training.signals import StopSignals

STEPS = 40
DISK = "50m"
SAVES = 6  # until the disk is filled


def config():
    cfg = compose_config(
        ["model=tiny", "data_mix=quickstart", "rules=none", "prompt=plain", "train.epochs=50"]
    )
    cfg.train.max_steps, cfg.train.examples_per_step, cfg.train.warmup_steps = STEPS, 4, 3
    cfg.train.checkpoint_every, cfg.train.validate_every = 1, 10
    cfg.budget.periodic_work_share = 1.0
    cfg.lora.dropout = 0.1  # so that the state of the random numbers matters
    return cfg


def start(folder: Path) -> tuple[int, int]:
    """Start or resume a run in `folder`. Returns its process and a pipe with a byte per save."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    save = saving.save_checkpoint

    def announced_save(*args, **options):
        os.write(writer, b"s")
        return save(*args, **options)

    saving.save_checkpoint = announced_save
    try:
        with run_lock(folder), StopSignals() as signals:
            code = run(config(), folder, signals)
    except OSError:
        code = 3
    os._exit(code)


def ended(child: int) -> int | None:
    """Exit code, or None while it runs."""
    number, status = os.waitpid(child, os.WNOHANG)
    return None if number == 0 else os.waitstatus_to_exitcode(status)


def wait(child: int) -> int:
    """Its exit code, when it is over."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int, reader: int, draw: random.Random, in_save: bool) -> int | None:
    """Kill after a random time or number of saves. Returns the exit code if it ended before."""
    if in_save:
        os.set_blocking(reader, True)
        for _ in range(draw.randrange(2, 12)):
            if not os.read(reader, 1):
                break
        time.sleep(draw.uniform(0.0, 0.01))
    else:
        end = time.monotonic() + draw.uniform(0.05, 4.0)
        while time.monotonic() < end and (code := ended(child)) is None:
            time.sleep(0.005)
        if time.monotonic() < end:
            return code
    os.kill(child, signal.SIGKILL)
    code = wait(child)
    return None if code == -signal.SIGKILL else code


def last_step(folder: Path) -> int:
    records = read_json_lines(folder / "metrics.jsonl")
    return max((record["step"] for record in records if "loss" in record), default=0)


def weights(folder: Path) -> bytes:
    return (folder / "bundle" / "adapter" / "adapter_model.safetensors").read_bytes()


def check_disk(undisturbed: bytes, folder: Path) -> dict:
    """A run whose disk is full from some save on; resumed when there is space."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "effchal", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        return {"full_disk": "not tried: mounting wants root"}
    try:
        child, reader = start(folder / "run")
        for _ in range(SAVES):
            os.read(reader, 1)
        filler = folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        first = wait(child)
        os.close(reader)
        reached = [path.name for path in checkpoints(folder / "run" / "checkpoint")]
        filler.unlink()
        child, reader = start(folder / "run")
        wait(child)
        os.close(reader)
        same = weights(folder / "run") == undisturbed
        return {
            "full_disk": "resumed" if same and first != 0 else "wrong",
            "exit_code": first,
            "kept": reached,
        }
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def disturbed_run(
    folder: Path, draw: random.Random, most: int, count: Counter, lost: list[int]
) -> int:
    """One run, killed and resumed until it ends, by at most `most` kills over all runs.

    Returns its exit code.
    """
    while True:
        child, reader = start(folder)
        in_save = count["kills"] % 3 == 2
        code = wait(child) if count["kills"] >= most else kill(child, reader, draw, in_save)
        os.close(reader)
        if code is not None:
            return code
        count["kills"] += 1
        count["kills_in_a_save"] += in_save
        there = checkpoints(folder / "checkpoint")
        if there:
            lost.append(last_step(folder) - int(there[0].stem.removeprefix("step_")))
        if len(there) > 1 and draw.random() < 0.2:
            there[0].write_bytes(there[0].read_bytes()[: there[0].stat().st_size // 2])
            count["checkpoints_cut"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    draw, count, lost = random.Random(0), Counter(), []
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place
        child, reader = start(Path(place) / "undisturbed")
        code = wait(child)
        os.close(reader)
        if code != 0:
            sys.exit(f"the undisturbed run ended with exit code {code}")
        undisturbed = weights(Path(place) / "undisturbed")
        while count["kills"] < options.kills:
            folder = Path(place) / f"run{count['runs']}"
            code = disturbed_run(folder, draw, options.kills, count, lost)
            count["runs"] += 1
            count["same_weights" if code == 0 and weights(folder) == undisturbed else "wrong"] += 1
        result = (
            dict(count)
            | {"most_steps_lost": max(lost, default=0)}
            | check_disk(undisturbed, Path(place) / "disk")
        )
    print("RESULT", json.dumps(result))
    return int(count["wrong"] > 0 or result["full_disk"] == "wrong")


if __name__ == "__main__":
    sys.exit(main())
