"""Train one adapter inside a budget of time and memory, and leave it in a bundle."""

import contextlib
import sys
from pathlib import Path

from effchal.cli import entry_point, job_age_s, overlay
from effchal.config import Config, ConfigError, load_config
from effchal.training.signals import StopSignals

# What imports torch is imported inside the functions: --help and --cfg job do without.
MAY_CHANGE = {"budget", "track", "resume_from"}  # keys that a resumed run takes from its command


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    from effchal.runs import run_lock

    cfg, run_dir = open_run(cfg, overrides, output_dir)
    with run_lock(run_dir), StopSignals() as signals:
        code = run(cfg, run_dir, signals, job_age_s())
    if code:  # an exit after success would end a sweep with its first run
        sys.exit(code)


def open_run(cfg: Config, overrides: list[str], output_dir: Path) -> tuple[Config, Path]:
    """Config and folder of a new run, or of the one in cfg.resume_from.

    Raises:
        ConfigError: the folder holds a run already, a frozen key was changed, there is
            nothing to train, or an enforced rule is broken.
    """
    from effchal.model.device import gpu_names
    from effchal.rules import enforce_rules
    from effchal.training.checkpoint import checkpoints

    run_dir = output_dir
    if cfg.resume_from is not None:
        run_dir = Path(cfg.resume_from)
        frozen = load_config(run_dir / "config.yaml")
        cfg = overlay(frozen, cfg, overrides, MAY_CHANGE, str(run_dir))
        cfg.resume_from = None
    elif checkpoints(run_dir / "checkpoint"):
        raise ConfigError(
            f"{run_dir} holds a run already; go on with it by resume_from={run_dir}, "
            "or take another folder"
        )
    if cfg.lora is None:
        raise ConfigError(
            "lora=none leaves nothing to train; serve it with effchal serve lora=none"
        )
    enforce_rules(cfg, gpu_names())
    return cfg, run_dir


def run(cfg: Config, run_dir: Path, signals: StopSignals, spent_before_s: float = 0.0) -> int:
    """Train, or go on training, in run_dir. Returns the exit code: 0, 1 (failed) or 128 + signal.

    Args:
        spent_before_s: seconds of this process before this call; they count towards the budget.

    Raises:
        ConfigError: before any training.
    """
    from effchal.training.budget import WallClock

    clock = WallClock.of(cfg.budget, spent_before_s)  # the imports below count, too
    from effchal.mixing.prepare import prepare_data
    from effchal.planning.outcome import keep_outcome, plan_run, write_record
    from effchal.training.build import check_decoding
    from effchal.training.loop import Trainer

    run_dir.mkdir(parents=True, exist_ok=True)
    check_decoding(cfg)
    data = prepare_data(cfg, run_dir)
    plan = plan_run(cfg, data, run_dir)  # refuses what cannot fit
    trainer = Trainer.build(cfg, data, clock, run_dir)  # restored if there is a checkpoint
    del data  # the trainer has what it needs of it
    try:
        status = trainer.fit(signals)
        trainer.save(status)
        keep_outcome(plan, trainer, status)
        trainer.log_end(status)
    except BaseException as error:  # weights may be half updated, so none are saved
        with contextlib.suppress(OSError):
            write_record(plan, trainer, "failed", f"{type(error).__name__}: {error}")
        raise
    return {"failed": 1, "interrupted": 128 + (signals.received or 0)}.get(status, 0)


if __name__ == "__main__":
    main()
