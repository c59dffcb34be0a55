"""Does cost grow with the work alone? Training of 100 to 10,000 examples.

    python benchmarks/bench_scale.py [--examples 100 1000 10000] [--repeats 3]

Trains builtin:tiny for one epoch on made-up examples, 8 a step, through effchal.train; the
sizes take turns, several rounds. One JSON line each, of medians: tokens per second over the
whole run (data preparation and validation included) and over its steps, and resident memory
after 50 steps and at the end (10,000 examples are 1,188 steps). On a busy machine, compare
processor seconds.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import ROOT, print_result

from effchal.runs import read_json_lines

WORDS = ["river", "stone", "light", "number", "answer", "garden", "window", "letter"]
WORDS += ["music", "winter", "engine"]
POLL_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    runs: dict[int, list[dict]] = {count: [] for count in args.examples}
    for _ in range(args.repeats):
        for count in args.examples:
            with tempfile.TemporaryDirectory() as folder:
                runs[count].append(train(Path(folder), count))
    for count, results in runs.items():
        medians = {key: median([result[key] for result in results]) for key in results[0]}
        each = [result["tokens_per_s_median_step"] for result in results]
        print_result({"examples": count} | medians | {"runs": each})


def train(folder: Path, count: int) -> dict:
    write_examples(folder / "made.jsonl", count)
    command = [sys.executable, "-m", "effchal.train", "model=tiny", "prompt=plain", "budget=smoke"]
    command += ["data_mix=lima", f"data_mix.sources.lima.path={folder / 'made.jsonl'}"]
    command += ["data_mix.sources.lima.weight=1", "train.epochs=1", "train.examples_per_step=8"]
    command += ["train.validate_every=100000", "train.checkpoint_every=100000"]
    command += ["budget.hours=2", f"hydra.run.dir={folder / 'run'}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, **quiet)
    memory: dict[int, float] = {}  # MiB, by step
    cpu_s = 0.0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            mib = watched.memory_info().rss / 2**20
            memory |= {steps_done(folder): mib} if mib else {}  # 0 for a process that just ended
            cpu_s = sum(watched.cpu_times()[:2])
        except psutil.NoSuchProcess:
            break
        time.sleep(POLL_S)
    if process.wait():
        sys.exit(f"exit code {process.returncode} of {' '.join(command)}")
    record = json.loads((folder / "run" / "run.json").read_text())
    speeds = [line["tokens_per_s"] for line in metrics(folder) if "tokens_per_s" in line]
    early = [mib for step, mib in memory.items() if step >= 50]
    return {
        "steps": record["step"],
        "tokens": record["tokens"],
        "tokens_per_s_whole_run": round(record["tokens"] / record["spent_s"]),
        "tokens_per_s_median_step": round(statistics.median(speeds)),
        "tokens_per_cpu_s_whole_run": round(record["tokens"] / cpu_s),
        "mib_after_50_steps": round(early[0], 1) if early else None,
        "mib_at_the_end": round(list(memory.values())[-1], 1),
    }


def write_examples(path: Path, count: int) -> None:
    draw = random.Random(0)
    with path.open("w") as file:
        for i in range(count):
            sizes = (draw.randrange(5, 20) for _ in range(2))
            question, answer = (" ".join(draw.choices(WORDS, k=size)) for size in sizes)
            row = {"conversations": [f"{i}: {question}", answer], "source": "made"}
            file.write(json.dumps(row) + "\n")


def median(values: list[float | None]) -> float | None:
    """None where a run was too short to tell."""
    return None if None in values else statistics.median(values)


def steps_done(folder: Path) -> int:
    lines = [line for line in metrics(folder) if "loss" in line]
    return lines[-1]["step"] if lines else 0


def metrics(folder: Path) -> list[dict]:
    return read_json_lines(folder / "run" / "metrics.jsonl")


if __name__ == "__main__":
    main()
