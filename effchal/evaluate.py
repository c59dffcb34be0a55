"""Score a bundle or a base model on scenarios, under one decoding or several.

Several bundles or runs are scored one after another and compared with the first. The words base
and base_plain stand for the base model of the runs beside them, with their prompt template or the
plain one. Without a network: scenario.path=<folder of data in HELM's layout>.
"""

import signal
import sys
from dataclasses import replace
from pathlib import Path

from effchal.cli import entry_point, fail, overlay
from effchal.config import Config, ConfigError, load_config
from effchal.model_source import inference_config
from effchal.several_models import split_base
from effchal.tracking.sweep import SweepJob
from effchal.tracking.tracker import check_tracking
from effchal.tracking.wandb_mirror import mirror_evaluation

# Keys that a resumed evaluation takes from its command. Model and data must be the same ones.
MAY_CHANGE = {"resume_from", "bundle", "base_model", "scenario.path", "scenario.skip_missing"}
MAY_CHANGE |= {"evaluate.reuse", "track"}


def evaluate(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    from effchal.evaluation.run import run  # imports torch; --help and --cfg job do without

    run_dir = output_dir
    if cfg.resume_from is not None:
        run_dir = Path(cfg.resume_from)
        if not (run_dir / "results.json").is_file():
            raise ConfigError(f"{run_dir} is no evaluation: it has no results.json")
        frozen = load_config(run_dir / "config.yaml")
        cfg = overlay(frozen, cfg, overrides, MAY_CHANGE, str(run_dir))
        cfg.resume_from = None
        if cfg.bundle is not None and split_base(cfg.bundle)[0] is not None:
            cfg.bundle = None  # its base model is in the run's config
    elif (run_dir / "results.json").is_file():
        raise ConfigError(
            f"{run_dir} holds an evaluation already; go on with it by resume_from={run_dir}"
        )
    else:
        free = {"scenario", "sweep", "evaluate", "name", "track"}
        # The bundle's own track.* is of its training.
        cfg = replace(inference_config(cfg, overrides, free), track=cfg.track)
    check_tracking(cfg.track)
    try:
        print(run(cfg, run_dir))
        mirror_evaluation(cfg, run_dir)
    except FloatingPointError as error:
        sys.exit(f"error: {error}; what was scored before is kept in {run_dir}")
    except KeyboardInterrupt:
        print(f"interrupted; go on with: effchal evaluate resume_from={run_dir}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def compare_jobs(jobs: dict[Path, SweepJob]) -> None:
    """After a sweep over models: print how each compares with the first, and keep it."""
    from effchal.evaluation.sweep import compare_models

    try:
        text = compare_models(list(jobs))
    except ConfigError as error:
        fail(str(error))
    else:
        print(text, end="")


main = entry_point(evaluate, after_sweep=compare_jobs)


if __name__ == "__main__":
    main()
