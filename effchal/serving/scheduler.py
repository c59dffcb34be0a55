"""Continuous batching: one thread owns the engine, and rows join and leave at every step.

The scheduler owns the queue and the memory, the engine the arithmetic.
"""

import atexit
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from effchal.config import ServeConfig
from effchal.decoding.engine import Engine
from effchal.decoding.prefix_cache import PrefixCache
from effchal.decoding.reading import PromptPart, parts_in_step
from effchal.decoding.recovery import drop_failed, rows_of, step_apart
from effchal.decoding.sequence import Prefill, Sequence
from effchal.model.host_memory import trim_heap
from effchal.serving.faults import DeviceLost, Faults
from effchal.serving.memory import GIB, CacheRoom
from effchal.serving.metrics import Metrics
from effchal.serving.queued import Prefilling, QueuedPrompt, QueueFull
from effchal.serving.tasks import EngineTasks

TRIM_EVERY_S = 30.0  # caches and batches of ever other sizes leave holes in the heap
log = logging.getLogger(__name__)


class Scheduler:
    """Runs an engine in a thread. `submit` and `cancel` may be called from any thread.

    A fault fails one prompt alone: a step that fails is repeated row by row.
    """

    def __init__(
        self,
        engine: Engine,
        cfg: ServeConfig,
        metrics: Metrics,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """on_lost: called once the engine's device is lost and its thread ends."""
        self._engine, self._cfg, self._metrics = engine, cfg, metrics
        self.room = CacheRoom(engine, cfg)
        engine.prefix_cache = PrefixCache(cfg.prefix_gib * GIB)
        self._waiting: deque[QueuedPrompt] = deque()
        self._prefilling: list[Prefilling] = []  # in the order of the queue
        self._running: dict[QueuedPrompt, list[Sequence]] = {}
        metrics.waiting.set_function(lambda: len(self._waiting))
        self._wake = threading.Condition()
        self._tasks = EngineTasks(self._wake)
        self._stopped = False
        self._trimmed = time.monotonic()
        self._faults, self._on_lost = Faults(engine.model.device), on_lost
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # An interpreter that ends while a thread is inside torch aborts the process.
        atexit.register(self.stop)

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

    def call(self, function: Callable[[], Any]) -> Any:
        """A function's result; the engine's thread calls it between two steps."""
        return self._tasks.add(function).result()

    def drop_adapter(self, adapter: str) -> None:
        """Free an adapter once no prompt that is here wants it."""

        def unused() -> bool:
            return all(each.adapter != adapter for each in (*self._waiting, *self._begun()))

        self._tasks.add(partial(self._engine.model.drop_adapter, adapter), unused)

    def stop(self) -> None:
        """End the engine's thread. Unanswered prompts fail."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self.stop)

    def _in_hand(self) -> int:
        return len(self._waiting) + len(self._running) + len(self._prefilling)

    def _run(self) -> None:
        end: Exception = RuntimeError("the server is stopping")
        try:
            while self._wait_for_work():
                try:
                    self._tasks.run()
                    self._run_once()
                except Exception as error:  # nothing above could save a row
                    self._faults.note(error)
                    self._engine.clear()
                    self._fail(self._begun(), error)
        except DeviceLost as error:
            log.critical("%s; the server ends", error)
            end = error
        self._engine.clear()
        self._tasks.close(end)
        with self._wake:
            self._fail([*self._begun(), *self._waiting], end)
        if isinstance(end, DeviceLost):
            self._on_lost()

    def _wait_for_work(self) -> bool:
        """Whether there is some; False at the end."""
        with self._wake:
            while not (self._in_hand() or self._stopped or self._tasks.any_ready()):
                self._wake.wait()
            return not self._stopped

    def _run_once(self) -> None:
        """Read the next tokens of prompts, and decode one token for every row."""
        self._drop_cancelled()
        while self._begin_next():
            pass
        chunk = self._cfg.prefill_tokens
        together = itertools.takewhile(lambda each: not each.prompt.alone, self._prefilling)
        parts = parts_in_step(self._engine, (each.prefill for each in together), chunk)
        if self._prefilling and not parts:
            self._prefill_alone(self._prefilling[0], chunk)
        rows, start = len(self._engine.rows), time.perf_counter()
        if rows or parts:
            self._step(parts)
        if rows:
            self._metrics.rows.observe(rows)
            self._metrics.step_s.observe(time.perf_counter() - start)
        for prompt, sequences in list(self._running.items()):
            try:
                self._report(prompt, sequences)
            except Exception as error:
                self._fail_alone(prompt, error)
                drop_failed(self._engine, sequences, error)
        if time.monotonic() > self._trimmed + TRIM_EVERY_S:
            trim_heap()
            self._trimmed = time.monotonic()

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [prompt for prompt in (*self._waiting, *self._begun()) if prompt.cancelled]
        for prompt in gone:
            for sequence in self._running.get(prompt, ()):
                sequence.finish_reason = "cancelled"
        self._engine.drop_finished()
        for prompt in gone:
            self._finish(prompt)

    def _begin_next(self) -> bool:
        """Begin the first prompt of the queue if its rows fit; nobody overtakes it.

        It waits while those before it fill the next step, or read what it begins with. Returns
        whether it has begun.
        """
        prompt = self._waiting[0] if self._waiting else None
        begun = [each.prefill for each in self._prefilling]
        reading = sum(len(each.prompt_ids) for each in begun)
        if prompt is None or not self.room.fits(prompt, self._begun(), reading):
            return False
        if sum(each.left for each in begun) >= self._cfg.prefill_tokens:
            return False
        alike = [each.prompt_ids for each in begun if each.adapter == prompt.adapter]
        if self._engine.prefix_cache.would_spare(prompt.prompt_ids, alike, prompt.adapter):
            return False
        try:
            self.room.reserve(prompt, self._begun(), reading)
            prefill = self._engine.begin(prompt.prompt_ids, prompt.variants, prompt.adapter)
        except Exception as error:
            self._fail_alone(prompt, error)
            return False
        self._metrics.prompt_tokens.labels("reused").inc(prefill.reused_tokens)
        self._metrics.prompt_tokens.labels("read").inc(prefill.left)
        with self._wake:
            self._waiting.popleft()
            self._prefilling.append(Prefilling(prompt, prefill))
        return True

    def _prefill_alone(self, current: Prefilling, chunk: int) -> None:
        """Prefill a chunk in a forward pass of its own. If that fails, no other prompt does."""
        try:
            through = self._engine.prefill(current.prefill, chunk)
        except Exception as error:
            self._fail_alone(current.prompt, error)
            drop_failed(self._engine, current.prefill.sequences, error)
            return
        if through:
            self._start_decoding(current)

    def _step(self, parts: list[PromptPart]) -> None:
        """One more token for every row, and the next tokens of the prompts that go with them."""
        reading = self._prefilling[: len(parts)]
        try:
            self._engine.step(parts)
            for current in reading:
                if not current.prefill.left:
                    self._start_decoding(current)
        except Exception as error:  # of one row, of a prompt, or not enough memory for all
            self._faults.note(error)
            for current in reversed(reading):
                if current in self._prefilling:
                    self._begin_again(current, error)
            step_apart(self._engine)
            self._fail_lost(error)

    def _begin_again(self, current: Prefilling, error: Exception) -> None:
        """Forget how far a prompt has come, and read it next, without other rows."""
        drop_failed(self._engine, current.prefill.sequences, error)
        with self._wake:
            self._prefilling.remove(current)
            current.prompt.alone = True
            self._waiting.appendleft(current.prompt)

    def _fail_lost(self, error: Exception) -> None:
        """Fail the prompts of which a sequence is neither done nor in a row any more."""
        held = rows_of(self._engine)
        for prompt, sequences in list(self._running.items()):
            if any(not (each.done or each in held) for each in sequences):
                drop_failed(self._engine, sequences, error)
                self._fail([prompt], error)

    def _start_decoding(self, current: Prefilling) -> None:
        """The prompt is prefilled and its sequences have their first token."""
        prompt, sequences = current.prompt, current.prefill.sequences
        self._metrics.first_token_s.observe(time.perf_counter() - prompt.submitted)
        if not any(sequence.error for sequence in sequences):
            self._keep_prefix(current.prefill)
        with self._wake:
            self._prefilling.remove(current)
            self._running[prompt] = sequences
        prompt.stream_echoes(sequences)

    def _keep_prefix(self, prefill: Prefill) -> None:
        """Keep what a prompt begins with, unless there is no memory for it."""
        try:
            self._engine.keep_prefix(prefill)
        except Exception as error:
            self._faults.note(error)
            self._engine.prefix_cache.clear()

    def _report(self, prompt: QueuedPrompt, sequences: list[Sequence]) -> None:
        """Stream the stable tokens, and finish the prompt when all its sequences are done."""
        prompt.stream(sequences)
        if all(sequence.done for sequence in sequences):
            prompt.error = next((sequence.error for sequence in sequences if sequence.error), None)
            if prompt.error is None:
                prompt.completions = [sequence.completion() for sequence in sequences]
                self._metrics.new_tokens.inc(sum(len(sequence.ids) for sequence in sequences))
            self._finish(prompt)

    def _begun(self) -> list[QueuedPrompt]:
        """Prompts that the engine knows."""
        return [*self._running, *(each.prompt for each in self._prefilling)]

    def _fail(self, prompts: list[QueuedPrompt], error: Exception) -> None:
        for prompt in prompts:
            prompt.error = error
            self._finish(prompt)

    def _fail_alone(self, prompt: QueuedPrompt, error: Exception) -> None:
        self._faults.note(error)
        self._fail([prompt], error)

    def _finish(self, prompt: QueuedPrompt) -> None:
        """Take a prompt out of the scheduler, wherever it stands, and wake who waits for it."""
        with self._wake:
            self._running.pop(prompt, None)
            if prompt in self._waiting:
                self._waiting.remove(prompt)
            self._prefilling = [each for each in self._prefilling if each.prompt is not prompt]
        prompt.updates.put(None)
        prompt.finished.set()
