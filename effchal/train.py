"""Train one adapter inside a budget of time and memory, and leave it in a bundle."""

import logging
import shlex
import sys
from functools import partial
from pathlib import Path

from effchal.cli.arguments import SWEEP_FLAGS
from effchal.cli.compose import entry_point, job_age_s
from effchal.cli.failures import fail
from effchal.cli.overrides import key_of
from effchal.config import Config, ConfigError
from effchal.planning.training_run import MAY_CHANGE, nothing_to_do, open_run, run
from effchal.runs import run_lock
from effchal.tracking.ending import ending, read_run
from effchal.tracking.manifest import sweep_of
from effchal.tracking.sweep import print_sweep
from effchal.training.launch import go_on_after_restart, is_launched, own_rank, remember
from effchal.training.signals import StopSignals

log = logging.getLogger("effchal.train")


def main() -> None:
    """Train; in a process that shares a run with others, as the first one says."""
    if own_rank() > 0:
        from effchal.training.follow import follow

        sys.exit(follow())
    if is_launched() and not SWEEP_FLAGS.isdisjoint(sys.argv):
        sys.exit(fail("a sweep starts its own processes; take train.gpus in place of torchrun"))
    sys.argv[1:] = go_on_after_restart(sys.argv[1:], MAY_CHANGE)
    train()


def dismiss() -> None:
    """Tell the processes that torchrun started that there is nothing to do."""
    if is_launched():
        from effchal.training.ranks import joined

        with joined(lambda: False) as ranks:
            ranks.decide(lambda: None)


@partial(entry_point, after_sweep=print_sweep)
def train(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    is_alone = sweep_of(output_dir) is None
    if is_alone and any(key_of(word) == "sweep.hours" for word in overrides):
        raise ConfigError("sweep.hours is for a sweep, effchal train -m; a run has budget.hours")
    cfg, run_dir = open_run(cfg, overrides, output_dir)
    done = nothing_to_do(cfg, run_dir)
    if done is not None:
        log.info("%s", done)
        return dismiss()
    remember(run_dir)
    with run_lock(run_dir), StopSignals() as signals:
        command = shlex.join(["effchal", "train", *overrides])
        code = run(cfg, run_dir, signals, job_age_s(), command)
    record = read_run(run_dir)
    if record is not None:
        print(ending(run_dir, record, in_sweep=not is_alone))
    if code:  # an exit after success would end a sweep with its first run
        sys.exit(code)


if __name__ == "__main__":
    main()
