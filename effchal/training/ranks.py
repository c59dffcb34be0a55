"""The processes of one run: each has a GPU, a share of every step, and the same adapter.

Rank 0 decides, shows and saves; the others follow. Objects and flags go over gloo, between CPUs,
so that a process that died is noticed without waiting for a GPU. Gradients go over the device's own
backend. Collectives are torch.distributed's.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from effchal.config import ConfigError
from effchal.training.launch import POLL_S, RankLost, has_agent, store_of
from effchal.training.lockstep import Lockstep

T = TypeVar("T")
# How long one rank waits for another: as long as the slowest save or validation may take.
PATIENCE = timedelta(hours=1)
BUCKET = 2**25  # elements of a gradient's sum at once: 128 MiB in float32
log = logging.getLogger("effchal.train")


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. Every method but the properties needs all of them."""

    rank: int = 0
    size: int = 1
    are_sharded: bool = False  # each holds a share of the base model
    lockstep: Lockstep | None = None  # of their layers, where sharded ones know it

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        return self.size > 1

    def decide(self, choose: Callable[[], T]) -> T:
        """What `choose` returns on rank 0; it is not called elsewhere.

        Raises:
            RankLost: as every method here.
        """
        if not self.are_several:
            return choose()
        values: list[Any] = [choose() if self.is_first else None]
        with lost_peers():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def any(self, flag: bool) -> bool:
        """Whether it holds on some rank."""
        if not self.are_several:
            return flag
        found = torch.tensor(int(flag))
        with lost_peers():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def gather(self, value: T) -> list[T]:
        """The value of each rank, in their order."""
        if not self.are_several:
            return [value]
        values: list[Any] = [None] * self.size
        with lost_peers():
            dist.all_gather_object(values, value)
        return values

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Add up tensors over all ranks, in place, a bucket of them at once.

        Every rank gets the same bits.
        """
        if not self.are_several:
            return
        bucket: list[Tensor] = []
        elements = 0
        for tensor in tensors:
            bucket.append(tensor)
            elements += tensor.numel()
            if elements >= BUCKET:
                self._sum_together(bucket)
                bucket, elements = [], 0
        self._sum_together(bucket)

    def _sum_together(self, tensors: list[Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with lost_peers():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def seed(self, seed: int, step: int) -> None:
        """Give each rank random numbers of its own for a step, the same ones after a restart."""
        if self.are_several:
            torch.manual_seed(hash((seed, step, self.rank)) % 2**63)


ALONE = Ranks()


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Turn the backend's error about a connection into RankLost."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        if not is_of_connection(error):
            raise
        log.warning("%s: %.200s", type(error).__name__, error)
        raise RankLost from error


def is_of_connection(error: Exception) -> bool:
    """Whether a backend raised it because a peer is gone; gloo raises plain RuntimeErrors."""
    known = isinstance(error, ConnectionError | dist.DistError)
    return known or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


@contextlib.contextmanager
def joined(give_up: Callable[[], bool]) -> Iterator[Ranks]:
    """Meet the other processes that the environment names, as torchrun sets it; leave at the end.

    Args:
        give_up: asked while some are not there yet.

    Raises:
        RankLost: they cannot be reached.
        ConfigError: the machine has fewer GPUs than processes.
    """
    place, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if cards:
        if place >= cards:
            raise ConfigError(
                f"process {place} of this machine has no GPU: it has {cards}; start {cards} or "
                "fewer processes"
            )
        torch.cuda.set_device(place)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "cpu:gloo,cuda:nccl" if cards else "gloo"
    with lost_peers():
        store = meet(rank, size, give_up)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()


def meet(rank: int, size: int, give_up: Callable[[], bool]) -> dist.Store:
    """Wait until all processes are there, in a loop that a signal can end."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    whole = store_of(is_master=rank == 0 and not has_agent())
    store = dist.PrefixStore(f"effchal/{attempt}", whole)
    store.set(f"here/{rank}", "")
    while not all(store.check([f"here/{other}"]) for other in range(size)):
        if give_up():
            raise RankLost
        time.sleep(POLL_S)
    return store


def abort_exchanges(device: torch.device) -> None:
    """End what waits on a GPU for a process that is gone, or nothing could be saved from it."""
    if device.type == "cuda" and dist.group.WORLD is not None:
        with contextlib.suppress(RuntimeError, AttributeError):
            dist.group.WORLD._get_backend(device).abort()  # private; checked with torch 2.13
