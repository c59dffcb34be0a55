"""Compare runs on one offline page: table, curves, scores, answers.

It finds the runs in and below the folders and writes one HTML file that needs no network.
"""

import argparse
import json
from pathlib import Path

from effchal.cli.command_help import own_parser
from effchal.cli.failures import one_line_errors
from effchal.config import ConfigError
from effchal.reporting.challenge import challenge_report
from effchal.reporting.collect import collect
from effchal.reporting.export import check_writable, write_files
from effchal.reporting.finals import TRACKS
from effchal.reporting.page import fitting_page
from effchal.reporting.payload import report_of
from effchal.reporting.watch import HOST, watch


def parser() -> argparse.ArgumentParser:
    made = own_parser("report")
    made.add_argument(
        "folders", nargs="*", type=Path, default=[Path("outputs")], help="default: outputs"
    )
    made.add_argument(
        "--output", type=Path, default=Path("report.html"), help="default: report.html"
    )
    made.add_argument("--csv", type=Path, metavar="FILE", help="also write the table of runs")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all that the page has")
    made.add_argument(
        "--png", type=Path, metavar="FOLDER", help="also write pictures of the charts"
    )
    made.add_argument("--watch", action="store_true", help=f"serve the page on {HOST} instead")
    made.add_argument("--port", type=int, default=8090, help="of --watch; default: 8090")
    made.add_argument(
        "--challenge", action="store_true", help="print places in the finals of 2023 instead"
    )
    made.add_argument("--track", choices=TRACKS, default=TRACKS[0], help="of --challenge")
    made.add_argument("--decoding", default="greedy", help="of --challenge; default: greedy")
    return made


def main() -> None:
    args = parser().parse_args()
    with one_line_errors():
        if args.challenge:
            challenge(args)
        elif args.watch:
            watch(args.folders, args.port)
        else:
            write(args)


def write(args: argparse.Namespace) -> None:
    """Write the page and what else was asked for, and say what is in it."""
    for path in (args.output, args.csv, args.json):
        check_writable(path)
    page, data = report_of(collect(args.folders), args.folders, fitting_page)
    try:
        written = write_files(page, data, args.output, args.csv, args.json, args.png)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from error
    print(data["summary"])
    if data["problems"]:
        count = len(data["problems"])
        few = count == 1
        words = ("folder", "holds") if few else ("folders", "hold")
        print(f"{count} {words[0]} could not be read or {words[1]} no run; the page lists them")
    print(f"wrote {', '.join(map(str, written))}")


def challenge(args: argparse.Namespace) -> None:
    """Print where the evaluations and HELM runs stand among the finalists of 2023."""
    check_writable(args.json)
    if args.csv or args.png or args.watch:
        raise ConfigError("--challenge goes with --json alone; leave --csv, --png and --watch out")
    report = challenge_report(args.folders, args.track, args.decoding)
    if args.json is not None:
        try:
            args.json.write_text(json.dumps(report.to_json(), indent=2) + "\n", "utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {args.json}: {error.strerror}") from error
    print(report.text(), end="")


if __name__ == "__main__":
    main()
