"""Compare models on the questions that all of them answered.

Differences with intervals, p-values and a sentence for each.

Each folder is an evaluation, a HELM run, a sweep of evaluations, a training run or a bundle. A
run or a bundle stands for its newest finished evaluation below outputs/. Every folder is
compared with the first one.
"""

import argparse
import json
from pathlib import Path

from effchal.cli import one_line_errors
from effchal.command_help import own_parser
from effchal.config import ConfigError


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
    from effchal.evaluation.compare import Settings, compare  # these import numpy
    from effchal.evaluation.compare_text import as_markdown, as_text
    from effchal.evaluation.locate import evaluations
    from effchal.evaluation.scored import read_scored

    folders = evaluations(arguments.folders)
    if asked and len(folders) > 1:
        raise ConfigError(f"--decodings compares within one evaluation, got {len(folders)} folders")
    if asked:
        models = [read_scored(folders[0], name) for name in asked]
    else:
        models = [read_scored(folder, arguments.decoding) for folder in folders]
    if len(models) == 1:
        raise ConfigError(f"one evaluation, {folders[0]}; give a second folder, or --decodings")
    result = compare(models, Settings(arguments.metric, confidence, resamples))
    if arguments.png:
        from effchal.evaluation.plots import plot_comparison

        plot_comparison(result, Path(arguments.png))
    if arguments.json:
        return json.dumps(result.to_dict(), indent=2)
    return as_markdown(result) if arguments.markdown else as_text(result)


if __name__ == "__main__":
    main()
