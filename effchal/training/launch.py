"""The processes of a run: those that torchrun started, as many as train.gpus, or one."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from effchal.config import Config, ConfigError
from effchal.overrides import quote

if TYPE_CHECKING:  # what a run's data can be wrong about is found before torch loads
    import torch.distributed as dist

    from effchal.training.ranks import Ranks

RUN_DIR = "effchal/run_dir"  # a key of torchrun's store, which outlives the processes it restarts
END_S = 60.0  # how long the others may take to end after the first one


def is_launched() -> bool:
    """Whether torchrun, or a process like this one, started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def own_rank() -> int:
    """0 for a process that nobody started as one of several."""
    return int(os.environ["RANK"]) if is_launched() else 0


@contextlib.contextmanager
def ranks_of(cfg: Config) -> Iterator["Ranks"]:
    """Start the other processes of a run, unless torchrun did, and meet them.

    torchrun's number becomes train.gpus, which a resumed run had from its start.

    Raises:
        ConfigError: more processes than GPUs.
        RankLost: the others cannot be reached.
    """
    from effchal.training.ranks import ALONE, joined

    if is_launched():
        cfg.train.gpus = int(os.environ["WORLD_SIZE"])
        with joined() as ranks:
            yield ranks
        return
    if cfg.train.gpus == 1:
        yield ALONE
        return
    import torch

    cards = torch.cuda.device_count()
    if cards and cfg.train.gpus > cards:
        raise ConfigError(f"train.gpus={cfg.train.gpus}, but this machine has {cards}")
    with started(cfg.train.gpus), joined() as ranks:
        yield ranks


@contextlib.contextmanager
def started(size: int) -> Iterator[None]:
    """Run `size` - 1 more processes, and make this one rank 0 of them. At the end they end, too."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    command = [sys.executable, "-m", "effchal.train"]
    others = [
        subprocess.Popen(command, env=os.environ | shared | places(rank)) for rank in range(1, size)
    ]
    before = dict(os.environ)
    os.environ.update(shared | places(0))
    try:
        yield
    finally:
        for name in shared | places(0):
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]
        for process in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            process.kill()
            process.wait()


def places(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def remember(run_dir: Path) -> None:
    """Tell torchrun's store the run's folder, so that processes that it restarts go on there."""
    store = agent_store()
    if store is not None:
        store.set(RUN_DIR, str(run_dir.absolute()))


def go_on_after_restart(arguments: list[str]) -> list[str]:
    """What was typed and, where torchrun starts the run again, the folder to go on in."""
    is_named = any("resume_from=" in word or Path(word).is_dir() for word in arguments)
    if is_named or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return arguments
    store = agent_store()
    if store is None or not store.check([RUN_DIR]):
        return arguments
    folder = Path(store.get(RUN_DIR).decode())
    begun = (folder / "config.yaml").is_file()
    return [*arguments, f"resume_from={quote(str(folder))}"] if begun else arguments


def agent_store() -> "dist.TCPStore | None":
    """The store of torchrun's own process; None where there is none."""
    if not is_launched() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    import torch.distributed as dist

    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, False)
