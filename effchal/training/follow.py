"""A process of a run other than the first: it computes its share of each step."""

import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.mixing.prepare import prepare_data
from effchal.runs import checkpoints, run_lock
from effchal.tracking.lines import StderrHandler
from effchal.training.budget import WallClock
from effchal.training.checkpoint import checkpoint_file
from effchal.training.launch import RankLost
from effchal.training.loop import Trainer
from effchal.training.ranks import Ranks, joined
from effchal.training.signals import StopSignals

LOCK_S = 4.0  # how long a process that was killed may take to give its lock back
log = logging.getLogger("effchal.train")


def follow() -> int:
    """Do as rank 0 says until the run ends. Returns the exit code."""
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter(f"[rank {os.environ['RANK']}] %(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    try:
        parent = os.getppid()
        with (
            StopSignals() as signals,
            joined(lambda: signals.received is not None or os.getppid() != parent) as ranks,
        ):
            return train_along(ranks, signals)
    except RankLost as error:
        log.error("%s before the first step", error)
        return 1
    except ConfigError as error:
        print(f"error: rank {os.environ['RANK']}: {error}", file=sys.stderr)
        return 2


def train_along(ranks: Ranks, signals: StopSignals) -> int:
    told: Any = ranks.decide(lambda: None)  # rank 0 decides
    if told is None:
        return 0
    cfg, run_dir = told
    data = prepare_data(cfg, None)  # rank 0 has encoded it by now, on this machine
    clock = WallClock.of(cfg.budget)  # of what this process does; rank 0's clock decides
    trainer = Trainer.build(cfg, data, clock, run_dir, ranks=ranks)
    status = trainer.fit(signals)
    if trainer.lost_peers:
        save_if_first(trainer, run_dir)
    else:
        trainer.save(status)
    return {"failed": 1, "interrupted": 128 + (signals.received or 0)}.get(status, 0)


def save_if_first(trainer: Trainer, run_dir: Path) -> None:
    """Write the checkpoint in place of rank 0, if that process is gone and with it its lock."""
    until = time.monotonic() + LOCK_S
    while time.monotonic() < until:
        with contextlib.suppress(ConfigError), run_lock(run_dir):
            return save(trainer, run_dir)
        time.sleep(LOCK_S / 20)  # rank 0 saves, or is being removed


def save(trainer: Trainer, run_dir: Path) -> None:
    """Write the checkpoint unless another process did."""
    folder, step = run_dir / "checkpoint", trainer.state.step
    if checkpoint_file(folder, step) not in checkpoints(folder) and trainer.saver.try_checkpoint():
        words = "rank 0 ended; this process saved step %d; go on with: effchal train %s"
        log.error(words, step, run_dir)
