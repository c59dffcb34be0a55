"""Whether cost grows with the work alone: python benchmarks/bench_scale.py [--examples 100 1000 10000] [--repeats 3]

Trains builtin:tiny for one epoch on so many made-up examples, 8 a step, through effchal.train itself; the sizes in
turn, several rounds. One JSON line each, of medians: tokens per second over the whole run (data preparation and
validation included) and over its steps, and resident memory after 50 steps and at the end (10,000 examples are 1,188
steps). On a busy machine, compare processor seconds.
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

ROOT = Path(__file__).resolve().parents[1]
WORDS = [
    "river",
    "stone",
    "light",
    "number",
    "answer",
    "garden",
    "window",
    "letter",
    "music",
    "winter",
    "engine",
]
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
    for count, told in runs.items():
        result = {key: median([each[key] for each in told]) for key in told[0]}
        each = [one["tokens_per_s_median_step"] for one in told]
        print("RESULT", json.dumps({"examples": count} | result | {"runs": each}), flush=True)


def train(folder: Path, count: int) -> dict:
    draw = random.Random(0)
    data = folder / "made.jsonl"
    with data.open("w") as file:
        for i in range(count):
            question, answer = (
                " ".join(draw.choices(WORDS, k=draw.randrange(5, 20))) for _ in range(2)
            )
            file.write(
                json.dumps({"conversations": [f"{i}: {question}", answer], "source": "made"}) + "\n"
            )
    command = [
        *(
            sys.executable,
            "-m",
            "effchal.train",
            "model=tiny",
            "prompt=plain",
            "data_mix=lima",
            "budget=smoke",
        ),
        *(f"data_mix.sources.lima.path={data}", "data_mix.sources.lima.weight=1", "train.epochs=1"),
        *(
            "train.examples_per_step=8",
            "train.validate_every=100000",
            "train.checkpoint_every=100000",
        ),
        *("budget.hours=2", f"hydra.run.dir={folder / 'run'}"),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    memory, cpu_s = {}, 0.0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            mib = watched.memory_info().rss / 2**20
            memory |= (
                {steps_done(folder): mib} if mib else {}
            )  # none of a process that has just ended
            cpu_s = sum(watched.cpu_times()[:2])
        except psutil.NoSuchProcess:
            break
        time.sleep(POLL_S)
    if process.wait():
        sys.exit(f"exit code {process.returncode} of {' '.join(command)}")
    record = json.loads((folder / "run" / "run.json").read_text())
    steps = [line for line in metrics(folder) if "tokens_per_s" in line]
    early = [mib for step, mib in memory.items() if step >= 50]
    return {
        "steps": record["step"],
        "tokens": record["tokens"],
        "tokens_per_s_whole_run": round(record["tokens"] / record["spent_s"]),
        "tokens_per_s_median_step": round(
            statistics.median(line["tokens_per_s"] for line in steps)
        ),
        "tokens_per_cpu_s_whole_run": round(record["tokens"] / cpu_s),
        "mib_after_50_steps": round(early[0], 1) if early else None,
        "mib_at_the_end": round(list(memory.values())[-1], 1),
    }


def median(values: list[float | None]) -> float | None:
    """None where a run was too short to tell."""
    return None if None in values else statistics.median(values)


def steps_done(folder: Path) -> int:
    lines = [line for line in metrics(folder) if "loss" in line]
    return lines[-1]["step"] if lines else 0


def metrics(folder: Path) -> list[dict]:
    path = folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


if __name__ == "__main__":
    main()
