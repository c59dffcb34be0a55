"""What the package does on a card, proved and measured within some minutes.

    python benchmarks/check_gpu.py [--minutes 8] [--out FOLDER] [--only SECTION ...] [--strict]
    python benchmarks/check_gpu.py --tiny       all of it in toy sizes, on a CPU

No downloads: small random models for the proofs, random weights of Mistral-7B's shape for
speed and memory. Sections run in the order of their importance, each under the clock; what
goes wrong says so, and the next one goes on. docs/check_gpu.md explains the results. Exit code 0:
every proof holds. Targets of speed and memory count only with --strict.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import ROOT

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # read by torch's import
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # equal runs have equal bits
sys.path.insert(0, str(ROOT))  # it runs without an installation, too

from gpu_check.session import Session, print_result
from gpu_check.workers import Part, Process, quiet, run_parts, work

PROOFS = ("kernels", "gradients", "answers", "resume")
HERE = ("machine", "attention", *PROOFS)  # sections of this process
SECTIONS = (*HERE, "training", "decoding", "plan")
TRAINING = ("bf16", "nf4")
DECODING = ("bf16", "bf16+adapter", "nf4+adapter")


def main() -> int:
    args = arguments()
    if args.worker:
        work(args.worker)
        return 0
    quiet()
    begun = time.monotonic()
    session = Session(args.tiny, begun + 60 * args.minutes, print_result)
    wanted = args.only or SECTIONS
    parts = [part for part in measured() if part.section in wanted]
    plan = None
    if "plan" in wanted and not args.tiny:  # beside all that the card does
        plan = Process(session, plans(), hide_card=True)
    missing = []
    for name in HERE:
        if name in wanted or name == "machine":
            finished = session.attempt(name, section(name))
            missing += [name] if name in PROOFS and not finished else []
    if args.tiny:  # one process: most of its time are imports
        run_parts(session, parts + (plans()[:1] if "plan" in wanted else []))
    else:
        for part in parts:
            run_parts(session, [part])
    if plan is not None:
        plan.collect(session)
    return finish(session, args, missing, time.monotonic() - begun)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="all of it, at most")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument("--out", type=Path, help="default on a card: experiments/gpu/<card>")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is not met")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def section(name: str) -> Callable[[Session], None]:
    return getattr(importlib.import_module(f"gpu_check.{name}_section"), name)


def plans() -> list[Part]:
    """For a processor."""
    return [Part("plan", "plan_section", "plan", base, limit_s=400) for base in TRAINING]


def measured() -> list[Part]:
    """What takes the whole card, the most important first."""
    return [
        *training("effchal", "training_section", "effchal"),
        *training(
            "transformers + peft + Liger", "training_section", "liger", ("liger_kernel",), True
        ),
        *(Part("decoding", "decoding_section", "decoding", base) for base in DECODING),
        *training("transformers + peft", "training_section", "transformers_and_peft"),
        *training("unsloth", "trainers_section", "unsloth", ("unsloth",), True),
        *training("TRL", "trainers_section", "trl", ("trl", "datasets")),
    ]


def training(
    system: str, module: str, function: str, needs: tuple[str, ...] = (), on_card_only: bool = False
) -> list[Part]:
    return [
        Part("training", module, function, base, system, needs, on_card_only) for base in TRAINING
    ]


def finish(session: Session, args: argparse.Namespace, missing: list[str], seconds: float) -> int:
    """Write results.jsonl and table.md, print the table, and return the exit code."""
    from gpu_check.table import failed, report
    from gpu_check.targets import targets

    judged = targets(session)
    text = report(session, judged, missing, seconds)
    print("\n" + text)
    folder = args.out or folder_of(session)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(line, default=str) for line in session.results]
        (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "table.md").write_text(text)
    not_met = args.strict and any(target.met is False for target in judged)
    return int(bool(missing or failed(session) or not_met))


def folder_of(session: Session) -> Path | None:
    """Where results of a card are kept; None without one."""
    cards = [line["card"] for line in session.of("machine") if "capability" in line]
    if not cards:
        return None
    letters = "".join(letter if letter.isalnum() else " " for letter in cards[0].lower())
    return ROOT / "experiments" / "gpu" / "-".join(letters.split())


if __name__ == "__main__":
    sys.exit(main())
