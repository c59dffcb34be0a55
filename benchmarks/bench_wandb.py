"""Seconds that track.wandb=offline adds to a tiny run: python benchmarks/bench_wandb.py

Runs `effchal train` without and with it in turns, and prints medians: of the whole command, and
of a step, which shows whether the mirror's process disturbs training.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ["model=tiny", "data_mix=quickstart", "budget=smoke", "train.max_steps=60"]
TIMES = 3


def seconds(mode: str, folder: Path) -> tuple[float, float]:
    """Of the command, and of its median step."""
    command = [sys.executable, "-m", "effchal", "train", *WORDS, f"track.wandb={mode}"]
    started = time.monotonic()
    subprocess.run([*command, f"hydra.run.dir={folder}"], check=True, capture_output=True)
    spent = time.monotonic() - started
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [each["tokens"] / each["tokens_per_s"] for each in records if "loss" in each]
    return spent, statistics.median(steps)


def main() -> None:
    found: dict[str, list[tuple[float, float]]] = {"off": [], "offline": []}
    with tempfile.TemporaryDirectory() as folder:
        seconds("off", Path(folder) / "warm-up")
        for turn in range(TIMES):
            for mode, times in found.items():
                times.append(seconds(mode, Path(folder) / f"{mode}_{turn}"))
    for mode, times in found.items():
        whole, step = (statistics.median(column) for column in zip(*times, strict=True))
        shown = ", ".join(f"{each[0]:.1f}" for each in times)
        print(f"track.wandb={mode}: {whole:.1f} s ({shown}), a step {step * 1000:.0f} ms")


if __name__ == "__main__":
    main()
