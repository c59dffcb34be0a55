"""The config and folder of an evaluation: a new one, one that is gone on with, those of a sweep."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

from effchal.cli.arguments import split_flags
from effchal.cli.compose import overlay
from effchal.cli.evaluate_arguments import swept_models
from effchal.cli.overrides import is_first_of_sweep, quote
from effchal.cli.several_models import resumed_bundle
from effchal.config import Config, ConfigError, load_config
from effchal.model_source import bundle_folder, inference_config
from effchal.runs import read_record

# Keys that a resumed evaluation takes from its command. Model and data must be the same ones.
MAY_CHANGE = {"resume_from", "bundle", "base_model", "scenario.path", "scenario.data", "track"}
MAY_CHANGE |= {"evaluate.reuse", "evaluate.grader", "scenario.skip_missing"}


def open_evaluation(cfg: Config, overrides: list[str], output_dir: Path) -> tuple[Config, Path]:
    """Config and folder of a new evaluation, or of the one in cfg.resume_from.

    Raises:
        ConfigError: the folder holds an evaluation already or none to go on with, or a frozen key
            was changed.
    """
    if cfg.resume_from is None:
        if (output_dir / "results.json").is_file():
            raise ConfigError(
                f"{output_dir} holds an evaluation already; go on with it by "
                f"resume_from={output_dir}"
            )
        return config_of(cfg, overrides), output_dir
    run_dir = Path(cfg.resume_from)
    if not (run_dir / "results.json").is_file():
        raise ConfigError(f"{run_dir} is no evaluation: it has no results.json")
    if (run_dir / "lm_eval.json").is_file():
        raise ConfigError(f"{run_dir} is of lm_eval; go on with: effchal lm_eval {run_dir}")
    cfg = overlay(load_config(run_dir / "config.yaml"), cfg, overrides, MAY_CHANGE, str(run_dir))
    cfg.resume_from = None
    bundle = resumed_bundle(cfg.bundle)
    cfg.bundle = bundle and str(bundle_folder(bundle))
    return cfg, run_dir


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
        results = run_dir / "results.json"
        if results.is_file() and read_record(results).get("status") == "finished":
            continue
        with contextlib.suppress(ConfigError):
            own = replace(cfg, bundle=model, resume_from=None)
            found.append((config_of(own, [*common, f"bundle={quote(model)}"]), run_dir))
    return found
