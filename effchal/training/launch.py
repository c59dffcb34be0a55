"""The processes of a run: those that torchrun started, as many as train.gpus, or one."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from effchal.cli.compose import is_allowed
from effchal.cli.overrides import key_of, quote
from effchal.config import Config, ConfigError

if TYPE_CHECKING:  # what a run's data can be wrong about is found before torch loads
    import torch.distributed as dist

    from effchal.training.ranks import Ranks

RUN_DIR = "effchal/run_dir"  # a key of torchrun's store, which outlives the processes it restarts
END_S = 20.0  # how long the others may take to end after the first one
POLL_S = 0.1


class RankLost(ConnectionError):
    """Another process of this run ended, or cannot be reached."""

    def __init__(self) -> None:
        super().__init__("another process of this run ended, or cannot be reached")


def is_launched() -> bool:
    """Whether torchrun, or a process like this one, started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def own_rank() -> int:
    """0 for a process that nobody started as one of several."""
    return int(os.environ["RANK"]) if is_launched() else 0


@contextlib.contextmanager
def ranks_of(cfg: Config, must_stop: Callable[[], bool]) -> Iterator["Ranks"]:
    """Start the other processes of a run, unless torchrun did, and meet them.

    torchrun's number becomes train.gpus, which a resumed run had from its start.

    Args:
        must_stop: whether to give up waiting for the others.

    Raises:
        ConfigError: more processes than GPUs.
        RankLost: the others cannot be reached.
    """
    from effchal.training.ranks import ALONE, joined

    if is_launched():
        cfg.train.gpus = int(os.environ["WORLD_SIZE"])
        with joined(must_stop) as ranks:
            yield ranks
        return
    if cfg.train.gpus == 1:
        yield ALONE
        return
    import torch

    cards = torch.cuda.device_count()
    if cards and cfg.train.gpus > cards:
        raise ConfigError(f"train.gpus={cfg.train.gpus}, but this machine has {cards}")
    with started(cfg.train.gpus) as others:

        def give_up() -> bool:
            return must_stop() or any(process.poll() is not None for process in others)

        with joined(give_up) as ranks:
            yield ranks


@contextlib.contextmanager
def started(size: int) -> Iterator[list[subprocess.Popen]]:
    """Run `size` - 1 more processes, and make this one rank 0 of them. At the end they end, too.

    After an error they are left alone: they notice it, and may save in place of this process.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // size))
    command = [sys.executable, "-m", "effchal.train"]
    others = [
        subprocess.Popen(command, env=os.environ | shared | places(rank)) for rank in range(1, size)
    ]
    before = dict(os.environ)
    os.environ.update(shared | places(0))
    try:
        yield others
    finally:
        for name in shared | places(0):
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]
    end(others)


def end(others: list[subprocess.Popen]) -> None:
    """Wait for processes to end, and kill those that do not."""
    until = time.monotonic() + END_S
    try:
        for process in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
    finally:
        for process in others:
            process.kill()
            process.wait()


def places(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def has_agent() -> bool:
    """Whether torchrun's own process keeps the store by which processes meet."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def store_of(is_master: bool) -> "dist.TCPStore":
    """The store by which the processes of a run meet."""
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, None, is_master, wait_for_workers=False)


def remember(run_dir: Path) -> None:
    """Tell torchrun's store the run's folder, so that processes that it restarts go on there."""
    if is_launched() and has_agent():
        store_of(is_master=False).set(RUN_DIR, str(run_dir.absolute()))


def go_on_after_restart(arguments: list[str], may_change: set[str]) -> list[str]:
    """What was typed and, where torchrun starts the run again, the folder to go on in.

    Args:
        may_change: keys that a resumed run takes from its command.
    """
    is_named = any("resume_from=" in word or Path(word).is_dir() for word in arguments)
    is_restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if is_named or not (is_restart and is_launched() and has_agent()):
        return arguments
    store = store_of(is_master=False)
    folder = Path(store.get(RUN_DIR).decode()) if store.check([RUN_DIR]) else None
    if folder is None or not (folder / "config.yaml").is_file():
        return arguments
    kept = [word for word in arguments if is_allowed(key_of(word), may_change)]
    return [*kept, f"resume_from={quote(str(folder))}"]
