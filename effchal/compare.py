"""Compare models on the questions that all of them answered.

Differences with intervals, p-values and a sentence for each.

Each folder is an evaluation, a HELM run, a sweep of evaluations, a training run or a bundle. A
run or a bundle stands for its newest finished evaluation below outputs/. Every folder is
compared with the first one.
"""

import argparse
import importlib.util
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effchal.command_help import own_parser
from effchal.config import ConfigError
from effchal.failures import one_line_errors

if TYPE_CHECKING:  # --help does without
    from effchal.evaluation.compare import Comparison

PICTURES = (".png", ".svg", ".pdf")


def main() -> None:
    arguments = parser().parse_args()
    with one_line_errors():
        print(run(arguments))


def parser() -> argparse.ArgumentParser:
    found = own_parser("compare")
    found.add_argument("folders", nargs="+", metavar="folder", help="the first is the baseline")
    found.add_argument(
        "--decoding", metavar="NAME", help="which answers of all folders; greedy if not given"
    )
    found.add_argument(
        "--decodings",
        nargs="+",
        metavar="NAME",
        help="compare these decodings of one evaluation, all with the first",
    )
    found.add_argument(
        "--metric",
        default="main",
        metavar="NAME",
        help="the metric to compare; main = each entry's main one (default), all = every one",
    )
    found.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        metavar="P",
        help="of intervals; what chance gives in fewer than 1 - P of cases is shown (default 0.95)",
    )
    found.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap")
    form = found.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    found.add_argument("--png", metavar="FILE", help="also draw the differences into a file")
    return found


def run(arguments: argparse.Namespace) -> str:
    """What the command prints.

    Raises:
        ConfigError: a value out of range, or a folder that cannot be compared.
    """
    confidence, resamples, asked = arguments.confidence, arguments.resamples, arguments.decodings
    if not 0 < confidence < 1:
        raise ConfigError(f"--confidence {confidence:g}: must be in (0, 1)")
    if not 100 <= resamples <= 1_000_000:
        raise ConfigError(f"--resamples {resamples}: must be in 100..1000000")
    if asked and arguments.decoding:
        raise ConfigError("--decoding and --decodings do not go together")
    if importlib.util.find_spec("numpy") is None:
        raise ConfigError("comparing needs numpy; pip install 'effchal[evaluate]'")
    from effchal.evaluation.compare import Settings, compare
    from effchal.evaluation.compare_text import as_markdown, as_text
    from effchal.evaluation.locate import evaluations, left_out
    from effchal.evaluation.scored import read_scored

    folders = evaluations(arguments.folders)
    if asked and len(folders) > 1:
        raise ConfigError(f"--decodings compares within one evaluation, got {len(folders)} folders")
    unfinished = left_out(arguments.folders)
    refuse_twice("--decodings", asked or [])
    refuse_twice("folders", [folder.resolve() for folder in folders])
    if asked:
        models = [read_scored(folders[0], name) for name in asked]
    else:
        sides = sides_of(arguments, folders)
        models = [read_scored(folder, decoding) for folder, decoding in sides]
    if len(models) == 1:
        hint = "; ".join([*unfinished, "give a second folder, or --decodings"])
        raise ConfigError(f"one evaluation, {folders[0]}; {hint}")
    result = compare(models, Settings(arguments.metric, confidence, resamples))
    result.refused += unfinished
    if arguments.png:
        draw(result, Path(arguments.png))
    if arguments.json:
        return json.dumps(result.to_dict(), indent=2)
    return as_markdown(result) if arguments.markdown else as_text(result)


def sides_of(arguments: argparse.Namespace, folders: list[Path]) -> list[tuple[Path, str | None]]:
    """Folders with their decodings: every one of them for the folder of a sweep that has several.

    Elsewhere it is the one that is asked for; None: greedy, or the only one there is.
    """
    from effchal.evaluation.locate import is_sweep
    from effchal.evaluation.sides import ask_different_things, sides

    are_jobs = len(arguments.folders) == 1 and is_sweep(Path(arguments.folders[0]).expanduser())
    needed = [folder / name for folder in folders for name in ("config.yaml", "results.json")]
    can_tell = arguments.decoding is None and are_jobs and all(map(Path.is_file, needed))
    if can_tell and ask_different_things(folders):
        return [*sides(folders)]
    return [(folder, arguments.decoding) for folder in folders]


def refuse_twice(what: str, given: Sequence[object]) -> None:
    """Raises ConfigError if something is given twice: it differs from itself in nothing."""
    twice = [str(each) for each, count in Counter(given).items() if count > 1]
    if twice:
        raise ConfigError(f"{what}: {', '.join(twice)} is given twice; name each once")


def draw(result: "Comparison", path: Path) -> None:
    """Raises ConfigError if matplotlib or the folder of the picture is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--png needs matplotlib; pip install 'effchal[evaluate]'")
    if not path.parent.is_dir():
        raise ConfigError(f"--png {path}: no folder {path.parent}")
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(f"--png {path}: must end in {', '.join(PICTURES)}")
    from effchal.evaluation.plots import plot_comparison

    plot_comparison(result, path)


if __name__ == "__main__":
    main()
