"""Work on batches: here, over all cores, or over the machines of a Ray cluster.

The processes that do it never load torch.
"""

import collections
import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from effchal.config import ConfigError
from effchal.config.choices import DataEngine
from effchal.runs import python_path

Work = Callable[[Any], Any]  # of one batch; what it needs it loads with the first one
AHEAD = 2  # batches for each process that wait or are done, so that memory stays bounded


def run_batches(work: Work, batches: Iterable[Any], engine: DataEngine | None) -> Iterator[Any]:
    """The result of each batch, in order.

    Args:
        work: told to each process once, pickled.
        batches: for Ray, each a small object that names its file as `path`.
        engine: None is this process, as starting another one takes a second or two.

    Raises:
        ConfigError: as the work raises it, a process was killed, or Ray cannot be used.
    """
    match engine:
        case None:
            yield from map(work, batches)
        case DataEngine.local:
            yield from _over_cores(work, batches)
        case DataEngine.ray:
            from effchal.mixing.on_ray import run_on_ray

            yield from run_on_ray(work, list(batches))


def _over_cores(work: Work, batches: Iterable[Any]) -> Iterator[Any]:
    count = len(os.sched_getaffinity(0))
    local = threading.local()
    workers: list[Worker] = []

    def do(batch: Any) -> Any:
        if not hasattr(local, "worker"):
            local.worker = Worker(work)
            workers.append(local.worker)
        return local.worker(batch)

    threads = ThreadPoolExecutor(count)
    waiting: collections.deque[Future[Any]] = collections.deque()
    try:
        for batch in batches:
            waiting.append(threads.submit(do, batch))
            if len(waiting) >= AHEAD * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
        for worker in workers:
            worker.stop()


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Give back what run_batches keeps for the next call: a cluster's processes."""
    try:
        yield
    finally:
        if on_ray := sys.modules.get("effchal.mixing.on_ray"):
            on_ray.release()


def run_counted(
    work: Work, batches: Iterable[Any], engine: DataEngine | None, advance: Callable[[float], None]
) -> Iterator[Any]:
    """run_batches, which tells after each batch how many items are done."""
    sizes: collections.deque[int] = collections.deque()

    def sized() -> Iterator[Any]:
        for batch in batches:
            sizes.append(len(batch))
            yield batch

    done = 0
    for result in run_batches(work, sized(), engine):
        yield result
        done += sizes.popleft()
        advance(done)


class Worker:
    """A process of its own. Unlike multiprocessing's, it never runs the caller's program again."""

    def __init__(self, work: Work) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "effchal.mixing.parallel"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": python_path(), "TOKENIZERS_PARALLELISM": "false"},
        )
        self._send(work)

    def __call__(self, batch: Any) -> Any:
        self._send(batch)
        assert self._process.stdout is not None
        try:
            result = pickle.load(self._process.stdout)
        except EOFError:
            raise self._died() from None
        if isinstance(result, BaseException):
            raise result
        return result

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _died(self) -> ConfigError:
        code = self._process.wait()
        return ConfigError(
            f"a process that prepared data ended with code {code}; was it killed for memory?"
        )

    def stop(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already
            self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Answer each batch on stdin with its result on stdout, both pickled."""
    from effchal.model.tokenizer import hide_torch

    hide_torch()
    answers, questions = sys.stdout.buffer, sys.stdin.buffer
    sys.stdout = sys.stderr  # nothing that a library prints may come between
    try:
        work: Work = pickle.load(questions)
        while True:
            batch = pickle.load(questions)
            try:
                result = work(batch)
            except Exception as error:
                result = error
            pickle.dump(result, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, KeyboardInterrupt):
        pass


if __name__ == "__main__":
    main()
