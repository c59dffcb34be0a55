"""Continuous batching: request threads hand in prompts, one thread owns the engine, rows come and go at every step."""

import atexit
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import psutil
import torch

from effchal.config import ServeConfig
from effchal.decoding.engine import Engine
from effchal.decoding.kv_cache import bytes_per_token
from effchal.decoding.prefix_cache import PrefixCache
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Completion, Prefill, Sequence, TokenScore
from effchal.model.host_memory import trim_heap
from effchal.serving.metrics import Metrics

GIB = 1 << 30
TRIM_EVERY_S = 30.0  # caches and batches of ever other sizes leave holes in the heap
log = logging.getLogger(__name__)


class QueueFull(Exception):
    """Too many jobs wait already."""


@dataclass(eq=False)
class Job:
    """A prompt and the ways to answer it, from the request's thread to the engine's and back."""

    prompt_ids: list[int]
    variants: list[SamplingParams]
    streams: bool = False
    cancelled: bool = False
    error: Exception | None = None
    completions: list[Completion] = field(
        default_factory=list
    )  # when finished; one for each variant
    finished: threading.Event = field(default_factory=threading.Event)
    # Streams: (variant, tokens that no stop can cut any more), and None at the end.
    updates: "queue.SimpleQueue[tuple[int, list[TokenScore]] | None]" = field(
        default_factory=queue.SimpleQueue
    )
    submitted: float = field(default_factory=time.perf_counter)
    told: list[int] = field(default_factory=list)  # tokens streamed of each variant

    @property
    def rows(self) -> int:
        return len(self.variants)

    @property
    def tokens(self) -> int:
        """The most that one of its rows may come to hold."""
        return len(self.prompt_ids) + max(params.max_new_tokens for params in self.variants)


class Scheduler:
    """Owns an engine. `submit` and `cancel` may be called from any thread."""

    def __init__(self, engine: Engine, cfg: ServeConfig, metrics: Metrics) -> None:
        self._engine, self._cfg, self._metrics = engine, cfg, metrics
        self._row_bytes = bytes_per_token(engine.model.config, engine.model.dtype.itemsize)
        warn_where_memory_is_short(engine, cfg, self._row_bytes)
        engine.prefix_cache = PrefixCache(cfg.prefix_gib * GIB)
        self._waiting: deque[Job] = deque()
        self._reading: tuple[Job, Prefill] | None = None
        self._running: dict[Job, list[Sequence]] = {}
        self._wake = threading.Condition()
        self._stopped = False
        self._trimmed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # An interpreter that ends while a thread is inside torch aborts the process.
        atexit.register(self.stop)

    @property
    def cache_tokens(self) -> int:
        """Tokens that the rows' cache may hold, rows times longest."""
        return int(self._cfg.cache_gib * GIB / self._row_bytes)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, jobs: list[Job]) -> None:
        """Queue jobs that belong together.

        Raises:
            QueueFull: with them more than serve.max_waiting jobs would wait or run.
        """
        with self._wake:
            if self._in_hand() + len(jobs) > self._cfg.max_waiting:
                raise QueueFull
            self._waiting.extend(jobs)
            self._metrics.waiting.set(len(self._waiting))
            self._wake.notify()

    def cancel(self, jobs: list[Job]) -> None:
        """Nobody waits for these any more; their rows are freed before the next step."""
        with self._wake:
            for job in jobs:
                job.cancelled = True
            self._wake.notify()

    def stop(self) -> None:
        """End the engine's thread; what it has not answered fails."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self.stop)

    def _in_hand(self) -> int:
        return len(self._waiting) + len(self._running) + (self._reading is not None)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._in_hand() or self._stopped):
                    self._wake.wait()
                if self._stopped:
                    break
            try:
                self._turn()
            except (
                Exception
            ) as error:  # out of memory, say: these requests fail, the next ones may not
                log.exception("the engine failed")
                self._fail_all(error)
        self._fail_all(RuntimeError("the server is stopping"), waiting=True)

    def _turn(self) -> None:
        """Drop what nobody waits for, read a piece of one prompt, decode one token for every row."""
        self._drop_cancelled()
        if self._reading is None:
            self._begin_next()
        tokens, beside = self._cfg.prefill_tokens, False
        if self._reading is not None:
            beside = self._engine.can_prefill_in_step(self._reading[1], tokens)
            if not beside:
                self._read_on()
        if self._engine.rows:
            start = time.perf_counter()
            self._metrics.rows.observe(len(self._engine.rows))
            if not beside:
                self._engine.step()
            elif self._engine.step_and_prefill(self._reading[1], tokens):
                self._has_read()
            self._metrics.step_s.observe(time.perf_counter() - start)
        for job, branches in list(self._running.items()):
            self._report(job, branches)
        if time.monotonic() > self._trimmed + TRIM_EVERY_S:
            trim_heap()
            self._trimmed = time.monotonic()

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [job for job in self._waiting if job.cancelled]
            for job in gone:
                self._waiting.remove(job)
            self._metrics.waiting.set(len(self._waiting))
        if self._reading and self._reading[0].cancelled:
            gone.append(self._reading[0])
            self._reading = None
        for job, branches in self._running.items():
            if job.cancelled:
                gone.append(job)
                for branch in branches:
                    branch.end("cancelled")
        self._engine.drop_finished()
        for job in gone:
            self._finish(job, None)

    def _begin_next(self) -> None:
        """Take the first of the queue, if its rows fit beside the running ones; whoever came first is first."""
        with self._wake:
            if not self._waiting or not self._fits(self._waiting[0]):
                return
            job = self._waiting.popleft()
            self._metrics.waiting.set(len(self._waiting))
            self._reading = job, None
        self._reserve(job)
        prefill = self._engine.begin(job.prompt_ids, job.variants)
        self._metrics.prompt_tokens.labels("reused").inc(prefill.reused_tokens)
        self._metrics.prompt_tokens.labels("read").inc(len(job.prompt_ids) - prefill.reused_tokens)
        self._reading = job, prefill

    def _need(self, more: Job) -> tuple[int, int]:
        """Rows, and tokens of the longest, with one more job."""
        jobs = [*self._running, more]
        return sum(job.rows for job in jobs), max(job.tokens for job in jobs)

    def _fits(self, job: Job) -> bool:
        rows, tokens = self._need(job)
        return not self._running or (
            rows <= self._cfg.max_rows and rows * tokens <= self.cache_tokens
        )

    def _reserve(self, job: Job) -> None:
        """Memory for all that the rows may come to hold, within the bound."""
        rows, tokens = self._need(job)
        had_rows, had_tokens = self._engine.cache.capacity
        if rows <= had_rows and tokens <= had_tokens:
            return
        wanted = max(rows, had_rows), max(tokens, had_tokens)
        if math.prod(wanted) > self.cache_tokens:
            wanted = rows, tokens
        self._engine.cache.resize(*wanted)

    def _read_on(self) -> None:
        job, prefill = self._reading
        try:
            done = self._engine.prefill(prefill, self._cfg.prefill_tokens)
        except FloatingPointError as error:  # of an echo; what runs beside it is not touched
            self._reading = None
            self._finish(job, error)
            return
        if done:
            self._has_read()

    def _has_read(self) -> None:
        job, prefill = self._reading
        self._reading = None
        self._metrics.first_token_s.observe(time.perf_counter() - job.submitted)
        if not any(branch.error for branch in prefill.sequences):
            self._engine.keep_prefix(prefill)
        self._running[job] = prefill.sequences

    def _report(self, job: Job, branches: list[Sequence]) -> None:
        """Stream what is settled; hand over what is done."""
        if job.streams:
            if not job.told:
                job.told = [0] * len(branches)
                for i, branch in enumerate(branches):
                    if branch.echo:
                        job.updates.put((i, branch.echo.tokens))
            for i, branch in enumerate(branches):
                settled = branch.stable_tokens()
                if settled > job.told[i]:
                    job.updates.put((i, branch.tokens[job.told[i] : settled]))
                    job.told[i] = settled
        if all(branch.done for branch in branches):
            self._finish(
                job, next((branch.error for branch in branches if branch.error), None), branches
            )

    def _finish(self, job: Job, error: Exception | None, branches: Iterable[Sequence] = ()) -> None:
        with self._wake:
            self._running.pop(job, None)
        job.error = error
        if error is None:
            job.completions = [branch.completion() for branch in branches]
            self._metrics.new_tokens.inc(sum(len(branch.ids) for branch in branches))
        job.updates.put(None)
        job.finished.set()

    def _fail_all(self, error: Exception, waiting: bool = False) -> None:
        with self._wake:
            jobs = list(self._running)
            if self._reading:
                jobs.append(self._reading[0])
            if waiting:
                jobs += self._waiting
                self._waiting.clear()
            self._reading = None
        self._engine.clear()
        for job in jobs:
            self._finish(job, error)


def warn_where_memory_is_short(engine: Engine, cfg: ServeConfig, row_bytes: int) -> None:
    """Keys and values come as they are needed; whether they will fit is known before.

    What the machine says is left: a container's own limit is not looked up, and mapped weights count as free.
    """
    rows = min(cfg.cache_gib * GIB, cfg.max_rows * engine.max_positions * row_bytes)
    wanted, device = rows + cfg.prefix_gib * GIB, engine.model.device
    left = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else psutil.virtual_memory().available
    )
    if wanted > left:
        log.warning(
            "keys and values may take %.1f GiB (serve.cache_gib, serve.prefix_gib) and %.1f GiB are left on %s: "
            "with many rows the server may run out of memory; give less",
            *(wanted / GIB, left / GIB, device),
        )
