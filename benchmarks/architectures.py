"""Try every architecture that tests/support knows, and write the table of docs/architectures.md.

    python benchmarks/architectures.py                   all of them; about 15 minutes of a core
    python benchmarks/architectures.py --processes 2     the same, two at a time
    python benchmarks/architectures.py --only gemma-3    some; prints, writes nothing

Each is a small random model. Training, decoding and scoring are compared with transformers
alone, and the commands run from training to an answered request. Exit code 1 where a result
is wrong or an error is no refusal.
"""

import argparse
import functools
import logging
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from common import ROOT

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

import transformers  # noqa: E402
from support.architecture_checks import CHECKS, Subject, outcome  # noqa: E402
from support.architectures import NAMES  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
HEAD = ("Architecture", "Training rows", "Decoding", "Logits", "Result")
TEXTS = {  # of the checks
    "gradients": "gradients of a training step on packed examples",
    "greedy": "greedy texts of a batch of six, of different lengths",
    "echo": "log-probabilities of a prompt's own tokens",
    "scoring": "log-probabilities of given continuations",
    "taps": "states of every layer",
    "dola": "texts and log-probabilities of DoLa",
    "commands": "plan, train, bundle and serve, to an answered request",
}
INTRODUCTION = """\
# Architectures

<!-- Written by benchmarks/architectures.py. -->

Small random models of these architectures were compared with transformers {version} alone:
eager, in float32, one text at a time. Checked were:

{checks}

`python benchmarks/architectures.py` does it again.

- **Training rows.** Examples share a row where none can see another. Else a forward pass
  takes one example, which is slower. Fused layers keep about a third of the activations.
- **Decoding.** Fused layers are the fastest, then the library's layers with all rows
  together. Where a model's state is more than keys and values, the library's own cache
  serves one row at a time. Without any cache, each token reads its whole text again.
- **Logits.** Of the head alone, or of the model's own end, which scales or caps them.

"right" means equal up to rounding. What is refused is refused in one line before any work.
Falcon with alibi is compared with sdpa attention: eager adds the position's bias twice.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--checks", nargs="+", choices=TEXTS, default=list(CHECKS))
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    rows, sound = [], True
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, spawn) as pool:
        for row, good in pool.map(functools.partial(tried, options.checks), options.only):
            rows.append(row)
            sound = sound and good
            print(" | ".join(row), flush=True)
    if options.only == NAMES:
        PAGE.write_text(page(rows, options.checks), encoding="utf-8")
    sys.exit(not sound)


def tried(checks: list[str], name: str) -> tuple[tuple[str, ...], bool]:
    """The table's row of an architecture, and whether nothing is wrong with it."""
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(name, Path(folder) / "model")
        found = {check: outcome_or_error(check, subject) for check in checks}
        route = route_of(subject)
    odd = {check: text for check, text in found.items() if text != "right"}
    good = all(text.startswith("refused") for text in odd.values())
    return (name, *route, result(odd, len(checks))), good


def outcome_or_error(check: str, subject: Subject) -> str:
    try:
        return outcome(check, subject).replace(str(subject.folder), "<folder>")
    except Exception as error:  # a fault of the program; the others are still tried
        return f"{type(error).__name__}: {str(error)[:100]}"


def route_of(subject: Subject) -> tuple[str, str, str]:
    """Cells of the table: training rows, decoding, logits."""
    try:
        model = subject.engine().model
    except Exception:  # refused, as the result says
        return "", "", ""
    together = "packed, fused" if model.route.fused else "packed"
    rows = together if model.route.packed else "one example"
    return rows, str(model.route.decoding), "head" if model.route.plain_head else "the model's end"


def result(odd: dict[str, str], checks: int) -> str:
    """What is not right, checks with the same outcome together."""
    if not odd:
        return "right"
    found: dict[str, list[str]] = {}
    for check, text in odd.items():
        line = text.replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")
        found.setdefault(line, []).append(check)
    parts = [f"{', '.join(names)} {text}" for text, names in found.items()]
    if len(odd) == checks and len(found) == 1:
        return next(iter(found))
    return "; ".join(["right" if len(odd) < checks else "", *parts]).removeprefix("; ")


def page(rows: list[tuple[str, ...]], checks: list[str]) -> str:
    """The whole page as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    texts = "\n".join(f"- {TEXTS[check]}" for check in checks)
    return INTRODUCTION.format(version=transformers.__version__, checks=texts) + table


if __name__ == "__main__":
    main()
