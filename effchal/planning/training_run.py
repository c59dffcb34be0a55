"""A training run from its folder to its bundle: opened or gone on with, planned, trained, saved."""

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from effchal.cli.arguments import run_of
from effchal.cli.compose import overlay
from effchal.cli.overrides import key_of
from effchal.config import Config, ConfigError, load_config
from effchal.config.choices import Parallel
from effchal.model.tokenizer import ModelError, base_model_path, require_folder
from effchal.runs import checkpoints, is_bundle, read_record
from effchal.tracking.ending import as_typed
from effchal.tracking.shown import Shown
from effchal.tracking.terminal import RunDisplay, progress, run_display
from effchal.tracking.tracker import check_tracking
from effchal.training.launch import RankLost, ranks_of
from effchal.training.signals import StopSignals

if TYPE_CHECKING:
    from effchal.mixing.select import Selection
    from effchal.planning.fit import Plan
    from effchal.training.budget import WallClock
    from effchal.training.loop import Trainer
    from effchal.training.ranks import Ranks

# What imports torch is imported inside the functions: --help and --cfg job do without.

# Keys that a resumed run takes from its command. Model and data must be the same ones.
MAY_CHANGE = {"budget", "track", "sweep", "resume_from", "base_model"}
MAY_CHANGE |= {"data_mix.sources.*.path", "data_mix.engine", "train.gpus", "train.parallel"}
log = logging.getLogger("effchal.train")


def open_run(cfg: Config, overrides: list[str], output_dir: Path) -> tuple[Config, Path]:
    """Config and folder of a new run, or of the one in cfg.resume_from.

    Raises:
        ConfigError: the folder holds a run already or is a bundle; a frozen key was changed; the
            base model is gone. Also if there is nothing to train, an enforced rule is broken, or
            a package that `track` asks for is missing.
    """
    run_dir = output_dir
    if cfg.resume_from is not None:
        run_dir = run_of("train", Path(cfg.resume_from))
        if is_bundle(run_dir):
            raise ConfigError(
                f"resume_from={run_dir} is a bundle, and lies in no run to go on with"
            )
        frozen = load_config(run_dir / "config.yaml")
        cfg = overlay(frozen, cfg, overrides, MAY_CHANGE, str(run_dir))
        cfg.resume_from = None
        keys = set(map(key_of, overrides))
        if "train.gpus" in keys and "train.parallel" not in keys:
            cfg.train.parallel = Parallel.auto
        if cfg.base_model is not None:
            cfg.model.name, cfg.base_model = cfg.base_model, None
        try:
            base_model_path(cfg.model)
        except ModelError as error:
            raise ConfigError(
                f"the base model of {run_dir} is not here: no {cfg.model.name}; "
                "give base_model=<folder>"
            ) from error
    elif checkpoints(run_dir / "checkpoint"):
        raise ConfigError(
            f"{run_dir} holds a run already; go on with it by resume_from={run_dir}, "
            "or take another folder"
        )
    else:
        require_folder(cfg.model)
    if cfg.lora is None:
        raise ConfigError(
            "lora=none leaves nothing to train; serve it with effchal serve lora=none"
        )
    if cfg.rules is not None:
        with progress("checking the rules"):  # torch loads, which takes a while
            from effchal.model.device import gpu_names
            from effchal.rules import enforce_rules

            enforce_rules(cfg, gpu_names())
    check_tracking(cfg.track)
    return cfg, run_dir


def nothing_to_do(cfg: Config, run_dir: Path) -> str | None:
    """Why a run that is gone on with has nothing to do; None if it has, or is a new one."""
    try:
        record = read_record(run_dir / "run.json")
        status, steps, limit_s = record["status"], record["step"], record["limit_s"]
    except (OSError, ConfigError, KeyError):  # no record, or a damaged one
        return None
    if not is_bundle(run_dir / "bundle"):
        return None
    if status == "finished":
        return f"{run_dir} is finished, with {steps} steps; its bundle: {run_dir / 'bundle'}"
    if status == "stopped_by_budget" and cfg.budget.hours * 3600 <= limit_s:
        return (
            f"{run_dir} was stopped by its budget after {steps} steps; its bundle: "
            f"{run_dir / 'bundle'}; to go on, give more than budget.hours={cfg.budget.hours}"
        )
    return None


def run(
    cfg: Config, run_dir: Path, signals: StopSignals, spent_before_s: float = 0.0, command: str = ""
) -> int:
    """Train, or go on training, in run_dir. Returns the exit code: 0, 1 (failed) or 128 + signal.

    Args:
        spent_before_s: seconds of this process before this call; they count towards the budget.
        command: what was typed, for run.json and the model card.

    Raises:
        ConfigError: before any training.
    """
    from effchal.mixing.prepare import select_data
    from effchal.training.budget import WallClock

    clock = WallClock.of(cfg.budget, spent_before_s)  # the imports to come count, too
    run_dir.mkdir(parents=True, exist_ok=True)
    shown = Shown(as_typed(run_dir), limit_s=clock.limit_s, spent_s=clock.spent_s())
    try:
        with run_display(shown) as display:
            with progress("reading the data"):  # what is wrong with it is found before torch loads
                selection = select_data(cfg)
            with ranks_of(cfg, lambda: signals.received is not None) as ranks:
                plan, trainer = start(cfg, selection, run_dir, clock, display, command, ranks)
                status = fit(plan, trainer, signals, run_dir)
    except RankLost as error:
        if not signals.received:
            log.error("%s before the first step; what it said is above", error)
        status = "interrupted" if signals.received else "failed"
    return {"failed": 1, "interrupted": 128 + (signals.received or 0)}.get(status, 0)


def fit(plan: "Plan", trainer: "Trainer", signals: StopSignals, run_dir: Path) -> str:
    """Train, save and keep what came of it; returns the status."""
    from effchal.planning.outcome import keep_outcome, write_record

    try:
        status = trainer.fit(signals)
        trainer.save(status)
        keep_outcome(plan, trainer, status)
        trainer.recorder.end(status, trainer.saver.bundle)
        if status == "finished":  # else no second is left for it
            from effchal.mixing.picture import draw

            draw(run_dir)
    except BaseException as error:  # weights may be half updated, so none are saved
        with contextlib.suppress(OSError):
            write_record(plan, trainer, "failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        trainer.recorder.close()
    return status


def start(
    cfg: Config,
    selection: "Selection",
    run_dir: Path,
    clock: "WallClock",
    display: RunDisplay,
    command: str,
    ranks: "Ranks",
) -> tuple["Plan", "Trainer"]:
    """All up to the first step, which is restored if there is a checkpoint.

    Args:
        ranks: the processes of the run, which wait for its config.

    Raises:
        ConfigError: data, model or plan are none to train with.
        RankLost: another process failed to start; it says why.
    """
    with progress("loading libraries"):
        from effchal.mixing.prepare import prepare_data
        from effchal.planning.meta_model import route_of_config
        from effchal.planning.outcome import plan_run
        from effchal.training.build import check_decoding
        from effchal.training.loop import Trainer
        from effchal.training.samples import check_samples
        from effchal.training.sharding import check_sharding

        check_decoding(cfg)
        check_sharding(cfg)
        check_samples(cfg)
    with progress("checking the model"):
        route_of_config(cfg.model)
    with progress("encoding the data"):
        data = prepare_data(cfg, None, selection)
    with progress("planning"):
        plan = plan_run(cfg, data, run_dir)  # refuses what cannot fit
    if plan.memory is not None:
        display.shown.memory_limit_gib = plan.memory_limit / 2**30
    ranks.decide(lambda: (cfg, run_dir))  # the plan filled in what was left to it
    with progress("loading the model"):
        trainer = Trainer.build(cfg, data, clock, run_dir, command, display, ranks)
    data.report.write(run_dir)  # now that the data is known to be the run's
    return plan, trainer
