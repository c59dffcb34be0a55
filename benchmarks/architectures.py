"""Try every architecture that tests/support knows, and write the table of docs/architectures.md.

    python benchmarks/architectures.py                   all of them; about 20 minutes on 2 cores
    python benchmarks/architectures.py --only gemma-3    some; prints, writes nothing

Each is a small random model. Training, decoding and scoring are compared with transformers
alone, and the commands run from training to an answered request. Exit code 1 where a result
is wrong or an error is no refusal.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

import transformers  # noqa: E402
from support.architecture_checks import CHECKS, Subject, outcome  # noqa: E402
from support.architectures import NAMES  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
HEAD = ("Architecture", "Training rows", "Decoding", "Logits", "Result")
INTRODUCTION = """\
# Architectures

<!-- Written by benchmarks/architectures.py. -->

Small random models of these architectures were compared with transformers {version} alone:
eager, in float32, one text at a time. Compared were the gradients of packed examples, the
greedy texts of a batch, echoed and scored log-probabilities, the states of every layer, and
DoLa. `plan`, `train` and `serve` ran, too, from a folder with weights to an answered
request. `python benchmarks/architectures.py` does it again.

- **Training rows.** Examples share a row where none can see another. Else a forward pass
  takes one example, which is slower.
- **Decoding.** Fused layers are the fastest, then the library's layers with all rows
  together. Where a model's state is more than keys and values, the library's own cache
  serves one row at a time. Without any cache, each token reads its whole text again.
- **Logits.** Of the head alone, or of the model's own end, which scales or caps them.

"right" means equal up to rounding. What is refused is refused in one line before any work.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows, sound = [], True
    for name in options.only:
        began = time.monotonic()
        row, good = tried(name)
        rows.append(row)
        sound = sound and good
        print(" | ".join(row), f"({time.monotonic() - began:.0f} s)", flush=True)
    if options.only == NAMES:
        PAGE.write_text(page(rows), encoding="utf-8")
    sys.exit(not sound)


def tried(name: str) -> tuple[tuple[str, ...], bool]:
    """The table's row of an architecture, and whether nothing is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(name, Path(folder) / "model")
        found = {check: outcome_or_error(check, subject) for check in CHECKS}
        route = route_of(subject)
    odd = {check: text for check, text in found.items() if text != "right"}
    good = all(text.startswith("refused") for text in odd.values())
    return (name, *route, result(odd)), good


def outcome_or_error(check: str, subject: Subject) -> str:
    try:
        return outcome(check, subject)
    except Exception as error:  # a fault of the program; the others are still tried
        return f"{type(error).__name__}: {str(error)[:100]}"


def route_of(subject: Subject) -> tuple[str, str, str]:
    """Cells of the table: training rows, decoding, logits."""
    try:
        model = subject.engine().model
    except Exception:  # refused, as the result says
        return "", "", ""
    rows = "packed" if model.route.packed else "one example"
    return rows, str(model.route.decoding), "head" if model.route.plain_head else "the model's end"


def result(odd: dict[str, str]) -> str:
    """What is not right, checks with the same outcome together."""
    if not odd:
        return "right"
    if len(odd) == len(CHECKS) and len(set(odd.values())) == 1:
        return next(iter(odd.values()))
    checks: dict[str, list[str]] = {}
    for check, text in odd.items():
        checks.setdefault(text, []).append(check)
    parts = [f"{', '.join(names)} {text}" for text, names in checks.items()]
    return "right, but " + "; ".join(parts).replace("\n", " ").replace("|", "\\|")


def page(rows: list[tuple[str, ...]]) -> str:
    """The whole page as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return INTRODUCTION.format(version=transformers.__version__) + table


if __name__ == "__main__":
    main()
