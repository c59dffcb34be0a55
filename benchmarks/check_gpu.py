"""What the package does on a card, proved and measured within some minutes.

    python benchmarks/check_gpu.py [--minutes 8] [--out FOLDER] [--only SECTION ...] [--strict]
    python benchmarks/check_gpu.py --tiny       all of it in toy sizes, on a CPU

No downloads: small random models for the proofs, random weights of Mistral-7B's shape for
speed and memory. Sections run in the order of their importance, each under the clock; what
goes wrong says so, and the next one goes on. docs/gpu.md explains the results. Exit code 0:
every proof holds. Targets of speed and memory count only with --strict.
"""

import argparse
import importlib
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # read by torch's import
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
# Our environment also holds for the processes that this one starts.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from gpu_check.session import Session, print_result
from gpu_check.workers import Process, Worker, folder_of, run_worker, work

PROOFS = ("gradients", "answers", "resume")
HERE = ("machine", "attention", *PROOFS)  # sections of this process
TRAINING = ("bf16", "nf4")
DECODING = ("bf16", "bf16+adapter", "nf4+adapter")


def main() -> int:
    args = arguments()
    quiet()
    if args.worker:
        work(args.worker)
        return 0
    begun = time.monotonic()
    session = Session(args.tiny, begun + 60 * args.minutes, print_result)
    wanted = args.only or [*HERE, *{worker.section for worker in workers(args.tiny)}]
    plan = Process(session, plan_worker()) if "plan" in wanted else None
    missing = []
    for name in HERE:
        if name in wanted or name == "machine":
            finished = session.left_s > 0 and session.attempt(name, section(name))
            missing += [name] if name in PROOFS and not finished else []
    for worker in workers(args.tiny):
        if worker.section in wanted:
            run_worker(session, worker)
    if plan is not None:
        plan.collect(session)
    return finish(session, args, missing, time.monotonic() - begun)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="all of it, at most")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument("--out", type=Path, help="default on a card: experiments/gpu/<card>")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is not met")
    names = [*HERE, "training", "decoding", "plan"]
    parser.add_argument("--only", nargs="+", choices=names, metavar="SECTION")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def quiet() -> None:
    from effchal.model.tokenizer import quiet_libraries

    quiet_libraries()
    warnings.filterwarnings("ignore")
    logging.getLogger("effchal").setLevel(logging.ERROR)


def section(name: str):
    return getattr(importlib.import_module(f"gpu_check.{name}_section"), name)


def plan_worker() -> Worker:
    return Worker("plan", "plan_section", "plan", TRAINING, limit_s=400)


def workers(tiny: bool) -> list[Worker]:
    """Ours first, then the peers; on a card each base in a process of its own."""
    found = []
    for bases in [TRAINING] if tiny else [(base,) for base in TRAINING]:
        found.append(Worker("training", "training_section", "effchal", bases))
    for bases in [DECODING] if tiny else [(base,) for base in DECODING]:
        found.append(Worker("decoding", "decoding_section", "decoding", bases))
    peers = (
        ("transformers + peft", "training_section", "transformers_and_peft", (), False),
        ("transformers + peft + Liger", "training_section", "liger", ("liger_kernel",), True),
        ("unsloth", "trainers_section", "unsloth", ("unsloth",), True),
        ("TRL", "trainers_section", "trl", ("trl", "datasets"), False),
    )
    for system, module, function, needs, on_card_only in peers:
        for bases in [TRAINING] if tiny else [(base,) for base in TRAINING]:
            found.append(
                Worker("training", module, function, bases, needs, 90, on_card_only, system)
            )
    return found


def finish(session: Session, args: argparse.Namespace, missing: list[str], seconds: float) -> int:
    """Write results.jsonl and table.md, print the table, and return the exit code."""
    from gpu_check.table import failed, report
    from gpu_check.targets import targets

    judged = targets(session)
    text = report(session, judged, missing, seconds)
    print("\n" + text)
    card = next((line["card"] for line in session.of("machine") if "capability" in line), None)
    folder = args.out or (folder_of(card) if card else None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(line, default=str) for line in session.results]
        (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "table.md").write_text(text)
    not_met = args.strict and any(target.met is False for target in judged)
    return int(bool(missing or failed(session) or not_met))


if __name__ == "__main__":
    sys.exit(main())
