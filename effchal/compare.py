"""Compare models on the questions that all of them answered.

Differences with intervals, p-values and a sentence for each.

Each folder is an evaluation, a HELM run, a sweep of evaluations, a training run or a bundle. A
run or a bundle stands for its newest finished evaluation below outputs/. Every folder is
compared with the first one.
"""

import argparse
import json
from pathlib import Path

from effchal.cli.command_help import own_parser
from effchal.cli.failures import one_line_errors


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
    from effchal.evaluation.compare import Settings
    from effchal.evaluation.compare_folders import compare_folders, draw
    from effchal.evaluation.compare_text import as_markdown, as_text

    settings = Settings(arguments.metric, arguments.confidence, arguments.resamples)
    decodings = arguments.decodings or []
    result = compare_folders(arguments.folders, arguments.decoding, decodings, settings)
    if arguments.png:
        draw(result, Path(arguments.png))
    if arguments.json:
        return json.dumps(result.to_dict(), indent=2)
    return as_markdown(result) if arguments.markdown else as_text(result)


if __name__ == "__main__":
    main()
