"""Score a bundle or a base model on scenarios, under one decoding or several.

Several bundles or runs are scored one after another and compared with the first. The words base
and base_plain stand for the base model of the runs beside them, with their prompt template or the
plain one. baseline=true puts base first. Without a network: scenario.path=<folder of data in HELM's
layout>. A file of your own questions: data=questions.jsonl, graded by your own function with
grader=mine.py:grade.
"""

import signal
import sys
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config, ConfigError
from effchal.evaluation.opening import open_evaluation, others_of_sweep
from effchal.evaluation.sweep import print_comparison
from effchal.tracking.manifest import how_to_go_on
from effchal.tracking.terminal import progress
from effchal.tracking.tracker import check_tracking
from effchal.tracking.wandb_mirror import mirror_evaluation


def evaluate(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    others = others_of_sweep(cfg, overrides, output_dir)
    cfg, run_dir = open_evaluation(cfg, overrides, output_dir)
    check_tracking(cfg.track)
    with progress("loading libraries"):  # torch among them
        from effchal.evaluation.questions.grader import GraderError
        from effchal.evaluation.run import run

    try:
        print(run(cfg, run_dir, others))
        mirror_evaluation(cfg, run_dir)
        if cfg.scenario.contest and is_of_contest(cfg.scenario.entries):
            print_places(run_dir)
    except FloatingPointError as error:
        sys.exit(f"error: {error}; what was scored before is kept in {run_dir}")
    except GraderError as error:
        again = f"repair the function and go on with: effchal evaluate {run_dir}"
        sys.exit(f"error: {error}\nno answer is lost; {again}")
    except KeyboardInterrupt:
        print(f"interrupted; go on with: {how_to_go_on('evaluate', run_dir)}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def is_of_contest(entries: list[str]) -> bool:
    from effchal.reporting.contest_scores import CONTEST

    return any(entry.partition(":")[0] in CONTEST for entry in entries)


def print_places(run_dir: Path) -> None:
    """Print where the evaluation stands among the contest's finalists."""
    from effchal.reporting.challenge import challenge_report

    try:
        places = challenge_report([run_dir]).places()
    except ConfigError as error:
        print(f"no place in the contest: {error}", file=sys.stderr)
    else:
        print(f"{places}\nbeside the finalists: effchal report --challenge {run_dir}")


main = entry_point(evaluate, after_sweep=print_comparison)


if __name__ == "__main__":
    main()
