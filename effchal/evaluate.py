"""Score a bundle or a base model on scenarios, under one decoding or several.

Several bundles or runs are scored one after another and compared with the first. The words base
and base_plain stand for the base model of the runs beside them, with their prompt template or the
plain one. baseline=true puts base first. Without a network: scenario.path=<folder of data in HELM's
layout>. A file of your own questions: data=questions.jsonl, graded by your own function with
grader=mine.py:grade.
"""

import contextlib
import signal
import sys
from dataclasses import replace
from pathlib import Path

from effchal.arguments import split_flags
from effchal.cli import entry_point, overlay
from effchal.config import Config, ConfigError, load_config
from effchal.evaluate_arguments import swept_models
from effchal.model_source import bundle_folder, inference_config
from effchal.overrides import is_first_of_sweep, quote
from effchal.runs import read_record
from effchal.several_models import split_base
from effchal.tracking.sweep import SweepJob
from effchal.tracking.terminal import progress
from effchal.tracking.tracker import check_tracking
from effchal.tracking.wandb_mirror import mirror_evaluation

# Keys that a resumed evaluation takes from its command. Model and data must be the same ones.
MAY_CHANGE = {"resume_from", "bundle", "base_model", "scenario.path", "scenario.data", "track"}
MAY_CHANGE |= {"evaluate.reuse", "evaluate.grader", "scenario.skip_missing"}


def evaluate(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    with progress("loading libraries"):  # torch among them; --help and --cfg job do without
        from effchal.evaluation.questions.grader import GraderError
        from effchal.evaluation.run import run

    others = others_of_sweep(cfg, overrides, output_dir)
    run_dir = output_dir
    if cfg.resume_from is not None:
        run_dir = Path(cfg.resume_from)
        if not (run_dir / "results.json").is_file():
            raise ConfigError(f"{run_dir} is no evaluation: it has no results.json")
        if (run_dir / "lm_eval.json").is_file():
            raise ConfigError(f"{run_dir} is of lm_eval; go on with: effchal lm_eval {run_dir}")
        frozen = load_config(run_dir / "config.yaml")
        cfg = overlay(frozen, cfg, overrides, MAY_CHANGE, str(run_dir))
        cfg.resume_from = None
        if cfg.bundle is not None:  # the base model of base:<folder> is in the run's config
            is_base = split_base(cfg.bundle)[0] is not None
            cfg.bundle = None if is_base else str(bundle_folder(cfg.bundle))
    elif (run_dir / "results.json").is_file():
        raise ConfigError(
            f"{run_dir} holds an evaluation already; go on with it by resume_from={run_dir}"
        )
    else:
        cfg = config_of(cfg, overrides)
    check_tracking(cfg.track)
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
        print(f"interrupted; go on with: effchal evaluate resume_from={run_dir}", file=sys.stderr)
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


def config_of(cfg: Config, overrides: list[str]) -> Config:
    """What to ask of cfg.bundle."""
    free = {"scenario", "sweep", "evaluate", "name", "track"}
    # The bundle's own track.* is of its training.
    return replace(inference_config(cfg, overrides, free), track=cfg.track)


def others_of_sweep(cfg: Config, overrides: list[str], folder: Path) -> list[tuple[Config, Path]]:
    """The other models of a sweep over models, with their folders, for its first job.

    A model that is wrong is left out: its own job tells.
    """
    if not (is_first_of_sweep() and cfg.evaluate.together):
        return []
    found = []
    _, typed = split_flags(sys.argv[1:])
    common = [word for word in overrides if not word.startswith("bundle=")]
    for number, model in enumerate(swept_models(typed)[1:], start=1):
        run_dir = folder.parent / str(number)
        if is_finished(run_dir / "results.json"):
            continue
        with contextlib.suppress(ConfigError):
            own = replace(cfg, bundle=model, resume_from=None)
            found.append((config_of(own, [*common, f"bundle={quote(model)}"]), run_dir))
    return found


def is_finished(results: Path) -> bool:
    return results.is_file() and read_record(results).get("status") == "finished"


def compare_jobs(jobs: dict[Path, SweepJob]) -> None:
    from effchal.evaluation.sweep import print_comparison

    print_comparison(list(jobs))


main = entry_point(evaluate, after_sweep=compare_jobs)


if __name__ == "__main__":
    main()
