"""Jobs of a sweep on this machine, several at a time, each in a process and on GPUs of its own."""

import logging
import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from hydra.core.utils import filter_overrides

from effchal.config import ConfigError
from effchal.sweeping.job import run_job
from effchal.tracking.manifest import Manifest
from effchal.training.signals import StopSignals

log = logging.getLogger("effchal.sweep")
POLL_S = 0.2


def visible_gpus() -> list[str]:
    """The GPUs that a process started here would see, as CUDA_VISIBLE_DEVICES names each."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return list(map(str, range(len(gpus))))


def gpus_in_groups(gpus: list[str], size: int) -> list[list[str]]:
    """GPUs for jobs that take up to `size` each; one empty group where there is no GPU at all.

    Raises:
        ConfigError: fewer GPUs than a job takes.
    """
    if not gpus:
        return [[]]
    if size > len(gpus):
        raise ConfigError(
            f"train.gpus={size}, but this sweep sees {len(gpus)} GPUs ({', '.join(gpus)}); "
            f"take train.gpus={len(gpus)} at most"
        )
    return [gpus[first : first + size] for first in range(0, len(gpus) - size + 1, size)]


class ProcessLauncher:
    """Runs jobs as processes, `at_once` at a time; a job that ends frees its GPUs for the next."""

    def __init__(
        self, manifest: Manifest, at_once: int, gpus: list[str], gpus_each: dict[int, int]
    ) -> None:
        """gpus_each: how many GPUs a job takes, by its number; the largest makes the groups."""
        self._manifest, self._at_once, self._gpus_each = manifest, at_once, gpus_each
        groups = gpus_in_groups(gpus, max(gpus_each.values()))
        self._places: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        for number in range(at_once):
            self._places.put(groups[number % len(groups)])
        self._started: list[subprocess.Popen] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list:
        """Do all jobs. Their results lie in their folders.

        Raises:
            SystemExit: 128 + a signal, which every job that ran has got as well.
        """
        jobs = [(number_in(words), list(filter_overrides(words))) for words in job_overrides]
        with StopSignals() as signals, ThreadPoolExecutor(self._at_once) as pool:
            pending: set[Future] = {pool.submit(self._do, *job) for job in jobs}
            try:
                while pending and not signals.received:
                    done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
                    for each in done:
                        each.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._started):
                    process.terminate()  # nothing to one that has ended
        if signals.received:
            sys.exit(128 + signals.received)
        return []

    def _do(self, number: int, overrides: list[str]) -> None:
        manifest, place = self._manifest, self._places.get()
        each = self._gpus_each[number]
        gpus = ",".join(place[:each])
        where = f" on GPU {gpus}" if gpus else ""
        log.info("%d begins%s: %s", number, where, manifest.differs(number))
        environment = {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
        if "OMP_NUM_THREADS" not in os.environ:  # which holds for each process of the job
            threads = len(os.sched_getaffinity(0)) // (self._at_once * each)
            environment["OMP_NUM_THREADS"] = str(max(1, threads))
        folder, output = manifest.folder_of(number), manifest.log_of(number)
        try:
            started = self._started.append
            code = run_job(manifest.command, overrides, folder, output, environment, started)
        finally:
            self._places.put(place)
        tell_end(manifest, number, code)


def number_in(words: Sequence[str]) -> int:
    """The number of the job that the sweeper gave these overrides to."""
    return int(next(w for w in words if w.startswith("hydra.sweep.subdir=")).partition("=")[2])


def tell_end(manifest: Manifest, number: int, code: int) -> None:
    """Log how a job that ran elsewhere ended."""
    reason = manifest.reason(number) if code else None
    if code and reason is None:  # it did not get as far as a try
        reason = f"exit code {code}"
    seen = Path(os.path.relpath(manifest.log_of(number)))
    log.info("%d %s", number, f"ended: {reason}; see {seen}" if code else "is done")
