"""Seconds that track.wandb=offline adds to a tiny run: python benchmarks/bench_wandb.py

Runs `effchal train` without and with it in turns, and prints medians: of the whole command, of a
step, which shows whether the mirror's process disturbs training, and of processor seconds, the
mirror's among them where it ended before the run.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ["model=tiny", "data_mix=quickstart", "budget=smoke", "train.max_steps=60"]
TIMES = 3


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(mode: str, folder: Path) -> tuple[float, float, float]:
    """Of the command, of its median step, and of a processor."""
    command = [sys.executable, "-m", "effchal", "train", *WORDS, f"track.wandb={mode}"]
    started, used = time.monotonic(), processor_s()
    subprocess.run([*command, f"hydra.run.dir={folder}"], check=True, capture_output=True)
    spent, used = time.monotonic() - started, processor_s() - used
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [each["tokens"] / each["tokens_per_s"] for each in records if "loss" in each]
    return spent, statistics.median(steps), used


def main() -> None:
    found: dict[str, list[tuple[float, float, float]]] = {"off": [], "offline": []}
    with tempfile.TemporaryDirectory() as folder:
        seconds("off", Path(folder) / "warm-up")
        for turn in range(TIMES):
            for mode, times in found.items():
                times.append(seconds(mode, Path(folder) / f"{mode}_{turn}"))
    for mode, times in found.items():
        whole, step, used = (statistics.median(column) for column in zip(*times, strict=True))
        shown = ", ".join(f"{each[0]:.1f}" for each in times)
        parts = [f"{whole:.1f} s ({shown})", f"a step {step * 1000:.0f} ms"]
        print(f"track.wandb={mode}: {', '.join(parts)}, {used:.1f} s of a processor")


if __name__ == "__main__":
    main()
