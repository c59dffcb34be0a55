"""Compare runs on one offline page: table, curves, scores, answers.

It finds the runs in and below the folders and writes one HTML file that needs no network.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from effchal.command_help import own_parser
from effchal.config import ConfigError
from effchal.failures import one_line_errors
from effchal.reporting.challenge import challenge_report
from effchal.reporting.collect import NoRun, collect
from effchal.reporting.export import write_csv, write_json, write_pngs
from effchal.reporting.finals import TRACKS
from effchal.reporting.page import fitting_page
from effchal.reporting.payload import report_of
from effchal.reporting.watch import HOST, make_server

NICENESS = 10  # of --watch: the jobs that it follows come first


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
            watch(args)
        else:
            write(args)


def write(args: argparse.Namespace) -> None:
    """Write the page and what else was asked for, and say what is in it."""
    for path in (args.output, args.csv, args.json):
        check_writable(path)
    page, data = report_of(collect(args.folders), args.folders, fitting_page)
    try:
        written = write_files(args, page, data)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from error
    print(data["summary"])
    if data["problems"]:
        count = len(data["problems"])
        few = count == 1
        words = ("folder", "holds") if few else ("folders", "hold")
        print(f"{count} {words[0]} could not be read or {words[1]} no run; the page lists them")
    print(f"wrote {', '.join(map(str, written))}")


def write_files(args: argparse.Namespace, page: str, data: dict[str, Any]) -> list[Path]:
    args.output.write_text(page, encoding="utf-8")
    written = [args.output]
    for path, into in ((args.csv, write_csv), (args.json, write_json)):
        if path is not None:
            into(data, path)
            written.append(path)
    return written + (write_pngs(data, args.png) if args.png is not None else [])


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


def check_writable(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        reason = "is a folder" if path.is_dir() else f"lies in no folder: {path.parent} is missing"
        raise ConfigError(f"{path} {reason}; give a file")


def watch(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    collect(args.folders)  # a folder that is missing is an error now
    os.nice(NICENESS)

    def make() -> dict[str, Any]:
        there = [path for path in args.folders if path.is_dir()]
        found = collect(there)
        gone = [path for path in args.folders if path not in there]
        found.others += [NoRun(path, "is not there any more") for path in gone]
        return report_of(found, args.folders, lambda report: fitting_page(report)[1])

    with make_server(make, args.folders, args.port) as server:
        print(f"http://{HOST}:{server.server_port} follows the runs; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)


if __name__ == "__main__":
    main()
