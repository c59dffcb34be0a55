"""Training throughput and memory of this package and of its peers.

    python benchmarks/bench_train.py DATA [--trl PYTHON] [--litgpt PYTHON]

DATA is LIMA's train.jsonl. Fixed work: LoRA r 16 on all linear layers of SmolLM2-135M, the
first 120 single-turn rows, at most 1,024 tokens each, four a step, the loss over all tokens
as the peers count it. PYTHON is that of a peer's own environment: peers/train_trl.py and
peers/train_litgpt.py say what it needs. Each run is a process of its own, and the systems
take turns. One JSON line per system: medians, ratio to ours, share of this machine's measured
matmul rate. On a busy machine use the ratio in processor seconds, with
--wrap 'env OMP_NUM_THREADS=1'.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import ROOT, SMOLLM2, print_result

PEERS = ROOT / "benchmarks" / "peers"
WORKER = ROOT / "benchmarks" / "train_worker.py"


def main() -> None:
    args = arguments()
    job = make_job(args) | {"dtype": args.dtype, "examples_per_step": args.examples_per_step}
    wrap = shlex.split(args.wrap)
    if args.profile:
        for library in range(1 + args.library):
            more = {"profile": True, "library": library}
            result = run([*wrap, sys.executable, WORKER], job | more)
            print_result(result)
        return
    commands = {
        f"effchal, {keep}": ([sys.executable, WORKER], {"keep": keep}) for keep in args.keep
    }
    if args.library:
        commands["library"] = ([sys.executable, WORKER], {"library": True})
    if args.trl:
        commands["trl"] = ([args.trl, PEERS / "train_trl.py"], {})
    if args.litgpt:
        commands["litgpt"] = ([args.litgpt, PEERS / "train_litgpt.py"], {})
    rates = run([*wrap, sys.executable, ROOT / "benchmarks" / "machine.py"])
    print_result(rates)
    results: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(args.repeats):
        for name, (command, more) in commands.items():
            results[name].append(run([*wrap, *command], job | more))
            print("RUN", json.dumps(results[name][-1]), flush=True)
    report(results, rates)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--model", default=str(SMOLLM2))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=5, help="the first is not timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-seq-len", type=int, default=1024)
    parser.add_argument("--examples-per-step", type=int, default=4)
    parser.add_argument("--trl", metavar="PYTHON")
    parser.add_argument("--litgpt", metavar="PYTHON")
    parser.add_argument("--keep", nargs="+", default=["none"], help="activation checkpointing")
    parser.add_argument("--library", action="store_true", help="also with the library's layers")
    parser.add_argument("--profile", action="store_true", help="only profile a step of ours")
    parser.add_argument("--wrap", default="", help="put before each run, e.g. 'taskset -c 0,1'")
    return parser.parse_args()


def make_job(args: argparse.Namespace) -> dict:
    """What every system trains: the same rows, steps and hyper-parameters."""
    return {
        "model": args.model,
        "dtype": "float32",
        "steps": args.steps,
        "pairs": single_turn_rows(args.data)[:120],
        "r": 16,
        "alpha": 32,
        "lr": 2e-4,
        "seed": 42,
        "max_seq_len": args.max_seq_len,
        "examples_per_step": 4,
        "packing": False,
        "checkpointing": False,
    }


def single_turn_rows(path: str) -> list[list[str]]:
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line)["conversations"] for line in file]
    return [row for row in rows if len(row) == 2]


def run(command: list, job: dict | None = None) -> dict:
    """The RESULT line of a process that is given the job in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        command = [str(part) for part in command] + ([str(path)] if job else [])
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        sys.exit(
            f"{shlex.join(command)} gave no result:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return json.loads(lines[-1].removeprefix("RESULT"))


def report(results: dict[str, list[dict]], rates: dict) -> None:
    ours = next(iter(results.values()))
    for runs in results.values():
        rate, peak = median(runs, tokens_per_s), median(runs, peak_gib)
        line = {
            "system": runs[0]["system"],
            "tokens_per_s": round(rate, 1),
            "runs": [round(tokens_per_s(each), 1) for each in runs],
            "tokens_per_cpu_s": round(median(runs, tokens_per_cpu_s), 1),
            "peak_gib": peak,
            "ours_is_faster_by": round(median(ours, tokens_per_s) / rate, 2),
            "ours_is_faster_by_cpu_s": round(
                median(ours, tokens_per_cpu_s) / median(runs, tokens_per_cpu_s), 2
            ),
            "ours_has_of_its_peak": round(median(ours, peak_gib) / peak, 2),
            "losses": [round(loss, 4) for loss in runs[0]["losses"]],
        }
        if "flop" in runs[0]:
            gflop_per_cpu_s = median(runs, lambda r: r["flop"] / r["cpu_s"]) / 1e9
            share = gflop_per_cpu_s / rates["matmul_gflop_per_cpu_s"]
            line["share_of_matmul_rate"] = round(share, 3)
        print_result(line)


def tokens_per_s(result: dict) -> float:
    return result["tokens"] / result["seconds"]


def tokens_per_cpu_s(result: dict) -> float:
    return result["tokens"] / result["cpu_s"]


def peak_gib(result: dict) -> float:
    return result["peak_gib"]


def median(runs: list[dict], what: Callable[[dict], float]) -> float:
    return statistics.median(what(each) for each in runs)


if __name__ == "__main__":
    main()
