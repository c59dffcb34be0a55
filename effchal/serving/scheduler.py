"""Continuous batching: one thread owns the engine, and rows join and leave at every step.

The scheduler owns the queue and the memory, the engine the arithmetic.
"""

import atexit
import logging
import math
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import psutil
import torch

from effchal.config import ServeConfig
from effchal.decoding.engine import Engine
from effchal.decoding.prefix_cache import PrefixCache
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Completion, Prefill, Sequence, TokenScore
from effchal.model.host_memory import trim_heap
from effchal.serving.metrics import Metrics

GIB = 1 << 30
TRIM_EVERY_S = 30.0  # caches and batches of ever other sizes leave holes in the heap
log = logging.getLogger(__name__)


class QueueFull(Exception):
    """Too many prompts wait already."""


@dataclass(eq=False)
class QueuedPrompt:
    """One prompt with its n sampling settings.

    A request thread creates it, the engine thread runs it, and it carries the results
    back. `completions` and `error` are set before `finished`.
    """

    prompt_ids: list[int]
    variants: list[SamplingParams]
    streams: bool = False
    cancelled: bool = False
    error: Exception | None = None
    completions: list[Completion] = field(default_factory=list)  # one for each variant
    finished: threading.Event = field(default_factory=threading.Event)
    # For streams: (variant, tokens that no stop can cut any more), and None at the end.
    updates: "queue.SimpleQueue[tuple[int, list[TokenScore]] | None]" = field(
        default_factory=queue.SimpleQueue
    )
    submitted: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.streamed = [0] * self.rows  # tokens sent so far, by variant

    @property
    def rows(self) -> int:
        return len(self.variants)

    @property
    def max_tokens(self) -> int:
        """The longest that one of its rows may become, prompt included."""
        return len(self.prompt_ids) + max(params.max_new_tokens for params in self.variants)


@dataclass(frozen=True)
class Prefilling:
    """The prompt that is being prefilled, one at a time."""

    prompt: QueuedPrompt
    prefill: Prefill


class Scheduler:
    """Runs an engine in a thread. `submit` and `cancel` may be called from any thread."""

    def __init__(self, engine: Engine, cfg: ServeConfig, metrics: Metrics) -> None:
        self._engine, self._cfg, self._metrics = engine, cfg, metrics
        self._row_bytes = engine.model.bytes_per_token
        warn_if_memory_is_short(engine, cfg, self._row_bytes)
        engine.prefix_cache = PrefixCache(cfg.prefix_gib * GIB)
        self._waiting: deque[QueuedPrompt] = deque()
        self._prefilling: Prefilling | None = None
        self._running: dict[QueuedPrompt, list[Sequence]] = {}
        metrics.waiting.set_function(lambda: len(self._waiting))
        self._wake = threading.Condition()
        self._stopped = False
        self._trimmed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # An interpreter that ends while a thread is inside torch aborts the process.
        atexit.register(self.stop)

    @property
    def cache_tokens(self) -> int:
        """Capacity of the rows' cache in tokens: rows times the longest row."""
        return int(self._cfg.cache_gib * GIB / self._row_bytes)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, prompts: list[QueuedPrompt]) -> None:
        """Queue the prompts of one request.

        Raises:
            QueueFull: more than serve.max_waiting prompts would wait or run.
        """
        with self._wake:
            if self._in_hand() + len(prompts) > self._cfg.max_waiting:
                raise QueueFull
            self._waiting.extend(prompts)
            self._wake.notify()

    def cancel(self, prompts: list[QueuedPrompt]) -> None:
        """Drop prompts that nobody waits for; their rows are freed before the next step."""
        with self._wake:
            for prompt in prompts:
                prompt.cancelled = True
            self._wake.notify()

    def stop(self) -> None:
        """End the engine's thread. Unanswered prompts fail."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self.stop)

    def _in_hand(self) -> int:
        return len(self._waiting) + len(self._running) + (self._prefilling is not None)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._in_hand() or self._stopped):
                    self._wake.wait()
                if self._stopped:
                    break
            try:
                self._run_once()
            except Exception as error:  # e.g. out of memory: the next prompts may succeed
                log.exception("the engine failed")
                error.with_traceback(None)  # its frames hold tensors
                self._engine.clear()
                self._fail(self._begun(), error)
        self._engine.clear()
        with self._wake:
            self._fail([*self._begun(), *self._waiting], RuntimeError("the server is stopping"))

    def _run_once(self) -> None:
        """Prefill one chunk of one prompt and decode one token for every row."""
        self._drop_cancelled()
        if self._prefilling is None:
            self._begin_next()
        current, chunk = self._prefilling, self._cfg.prefill_tokens
        if current is not None and not self._engine.can_prefill_in_step(current.prefill, chunk):
            self._prefill_alone(current, chunk)
            current = None
        if self._engine.rows:
            start = time.perf_counter()
            self._metrics.rows.observe(len(self._engine.rows))
            if current is None:
                self._engine.step()
            elif self._engine.step_and_prefill(current.prefill, chunk):
                self._start_decoding(current)
            self._metrics.step_s.observe(time.perf_counter() - start)
        for prompt, sequences in list(self._running.items()):
            self._report(prompt, sequences)
        if time.monotonic() > self._trimmed + TRIM_EVERY_S:
            trim_heap()
            self._trimmed = time.monotonic()

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [prompt for prompt in (*self._waiting, *self._begun()) if prompt.cancelled]
        for prompt in gone:
            for sequence in self._running.get(prompt, ()):
                sequence.end("cancelled")
        self._engine.drop_finished()
        for prompt in gone:
            self._finish(prompt)

    def _begin_next(self) -> None:
        """Begin the first prompt of the queue if its rows fit; nobody overtakes it."""
        prompt = self._waiting[0] if self._waiting else None
        if prompt is None or not self._fits(prompt):
            return
        try:
            self._reserve(prompt)
            prefill = self._engine.begin(prompt.prompt_ids, prompt.variants)
        except Exception as error:
            self._fail([prompt], error)
            raise
        reused = prefill.reused_tokens
        self._metrics.prompt_tokens.labels("reused").inc(reused)
        self._metrics.prompt_tokens.labels("read").inc(len(prompt.prompt_ids) - reused)
        with self._wake:
            self._waiting.popleft()
            self._prefilling = Prefilling(prompt, prefill)

    def _size_with(self, prompt: QueuedPrompt) -> tuple[int, int]:
        """(rows, tokens of the longest row) that the cache needs once this prompt runs, too."""
        prompts = [*self._running, prompt]
        return sum(each.rows for each in prompts), max(each.max_tokens for each in prompts)

    def _fits(self, prompt: QueuedPrompt) -> bool:
        rows, tokens = self._size_with(prompt)
        within = rows <= self._cfg.max_rows and rows * tokens <= self.cache_tokens
        return within or not self._running

    def _reserve(self, prompt: QueuedPrompt) -> None:
        """Allocate what all rows may come to need; shrink the cache only to stay in bounds."""
        rows, tokens = self._size_with(prompt)
        had_rows, had_tokens = self._engine.cache.capacity
        if rows <= had_rows and tokens <= had_tokens:
            return
        size = max(rows, had_rows), max(tokens, had_tokens)
        if math.prod(size) > self.cache_tokens:
            size = rows, tokens
        self._engine.cache.resize(*size)

    def _prefill_alone(self, current: Prefilling, chunk: int) -> None:
        """Prefill a chunk in a forward pass of its own."""
        try:
            if self._engine.prefill(current.prefill, chunk):
                self._start_decoding(current)
        except FloatingPointError as error:  # of an echo; the running rows are not affected
            self._fail([current.prompt], error.with_traceback(None))

    def _start_decoding(self, current: Prefilling) -> None:
        """The prompt is prefilled and its sequences have their first token."""
        prompt, sequences = current.prompt, current.prefill.sequences
        self._metrics.first_token_s.observe(time.perf_counter() - prompt.submitted)
        if not any(sequence.error for sequence in sequences):
            self._engine.keep_prefix(current.prefill)
        with self._wake:
            self._prefilling = None
            self._running[prompt] = sequences
        for i, sequence in enumerate(sequences):
            if prompt.streams and sequence.echo:
                prompt.updates.put((i, sequence.echo.tokens))

    def _report(self, prompt: QueuedPrompt, sequences: list[Sequence]) -> None:
        """Stream the stable tokens, and finish the prompt when all its sequences are done."""
        for i, sequence in enumerate(sequences if prompt.streams else ()):
            stable = sequence.stable_tokens()
            if stable > prompt.streamed[i]:
                prompt.updates.put((i, sequence.tokens[prompt.streamed[i] : stable]))
                prompt.streamed[i] = stable
        if all(sequence.done for sequence in sequences):
            prompt.error = next((sequence.error for sequence in sequences if sequence.error), None)
            if prompt.error is None:
                prompt.completions = [sequence.completion() for sequence in sequences]
                self._metrics.new_tokens.inc(sum(len(sequence.ids) for sequence in sequences))
            self._finish(prompt)

    def _begun(self) -> list[QueuedPrompt]:
        """Prompts that the engine knows."""
        current = [] if self._prefilling is None else [self._prefilling.prompt]
        return [*self._running, *current]

    def _fail(self, prompts: list[QueuedPrompt], error: Exception) -> None:
        for prompt in prompts:
            prompt.error = error
            self._finish(prompt)

    def _finish(self, prompt: QueuedPrompt) -> None:
        """Take a prompt out of the scheduler, wherever it stands, and wake who waits for it."""
        with self._wake:
            self._running.pop(prompt, None)
            if prompt in self._waiting:
                self._waiting.remove(prompt)
            if self._prefilling is not None and self._prefilling.prompt is prompt:
                self._prefilling = None
        prompt.updates.put(None)
        prompt.finished.set()


def warn_if_memory_is_short(engine: Engine, cfg: ServeConfig, row_bytes: int) -> None:
    """Log a warning if the caches may outgrow the memory that is free now.

    Keys and values are allocated on demand, so the shortage would show only under load. A
    container's own limit is not looked up, and mapped weights count as free.
    """
    rows = min(cfg.cache_gib, cfg.max_rows * engine.max_positions * row_bytes / GIB)
    needed, device = rows + cfg.prefix_gib, engine.model.device
    on_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_cuda else psutil.virtual_memory().available
    if needed > free / GIB:
        log.warning(
            "keys and values may take %.1f GiB (serve.cache_gib, serve.prefix_gib) and %.1f GiB "
            "are left on %s: with many rows the server may run out of memory; give less",
            needed,
            free / GIB,
            device,
        )
