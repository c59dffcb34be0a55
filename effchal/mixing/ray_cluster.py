"""Ray, for sweeps and for data: whether it is here, and a quiet connection to its cluster."""

import contextlib
import importlib.metadata
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from effchal.config import ConfigError

# What processes on other nodes take over from this one.
KEPT = ("PYTHONPATH", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "XDG_CACHE_HOME")
OLDEST, BELOW = (2, 60), (2, 64)  # as pyproject.toml's extra `ray` has them
ANSWER_S = 5.0  # how long a cluster's address may take to answer
ADDRESS = re.compile(r"(?P<host>.+):(?P<port>\d+)")


def check_ray() -> None:
    """Raise ConfigError if Ray is not installed, or in a version of no use."""
    key = "data_mix.engine=ray"
    instead = "data_mix.engine=local, which builds the same mix"
    install = f"pip install 'effchal[ray]', or take {instead}"
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"{key} needs the package ray, which is not here: {install}") from None
    if not OLDEST <= tuple(map(int, re.findall(r"\d+", version)[:2])) < BELOW:
        raise ConfigError(f"{key} needs another version of ray than {version}: {install}")


def environment() -> dict[str, str]:
    """The variables of this process that processes on other nodes need, for Ray's runtime_env."""
    return {name: os.environ[name] for name in KEPT if name in os.environ}


def connect(address: str | None = None) -> bool:
    """Connect to the cluster at the address, at RAY_ADDRESS, or on this machine; or start one here.

    Returns:
        Whether this call did so. Ray knows one cluster at a time.

    Raises:
        ConfigError: there is no such cluster, or it runs another version.
    """
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # no thread of Ray starts another Ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    is_own = address in (None, "", "local")  # or of this machine, if there is one
    if address:
        _check_address(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with _own_signals():
            ray.init(
                address=address or None,
                log_to_driver=False,
                logging_level="ERROR",
                configure_logging=False,
                include_dashboard=False if is_own else None,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"Ray at {address or 'this machine'} cannot be used: {reason}") from error
    return True


def _check_address(address: str) -> None:
    """Raise ConfigError if nothing answers; Ray itself would wait for minutes, deaf to signals."""
    if "://" in address:
        raise ConfigError(
            f"Ray at {address}: a client is not enough; run the command on a node of the cluster, "
            "with RAY_ADDRESS=<host>:<port> or auto"
        )
    found = ADDRESS.fullmatch(address)
    if found is None:
        return  # auto, local
    try:
        socket.create_connection((found["host"], int(found["port"])), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Ray at {address} does not answer ({error}); give the address that `ray status` or "
            "`ray start --head` names"
        ) from error


def disconnect() -> None:
    """Undo connect, and end the Ray that it started, if it did."""
    import ray

    with _own_signals():  # Ray's C++ side takes Python's handler out, unseen by getsignal
        ray.shutdown()
    if signal.getsignal(signal.SIGTERM) is _end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep who listens to SIGTERM, in whose place Ray puts itself.

    Where nobody does, this process ends by an exception, so that it can end Ray's processes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, _end if before is signal.SIG_DFL else before)


def _end(number: int, frame: Any) -> None:
    sys.exit(128 + number)
