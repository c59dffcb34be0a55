"""Work on an engine by other threads: its own thread does it, between two steps."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    function: Callable[[], Any]
    ready: Callable[[], bool]
    done: "Future[Any]" = field(default_factory=Future)


class EngineTasks:
    """`add` may be called from any thread; the rest is the engine's thread's."""

    def __init__(self, wake: threading.Condition) -> None:
        """wake: what the engine's thread waits on."""
        self._wake = wake
        self._tasks: list[Task] = []
        self._end: Exception | None = None

    def add(
        self, function: Callable[[], Any], ready: Callable[[], bool] = lambda: True
    ) -> "Future[Any]":
        """Have a function called once it is ready, with its result or error in the future."""
        task = Task(function, ready)
        with self._wake:
            if self._end is not None:
                raise self._end
            self._tasks.append(task)
            self._wake.notify()
        return task.done

    def any_ready(self) -> bool:
        return any(task.ready() for task in self._tasks)

    def run(self) -> None:
        """Do what is ready. An error is its caller's alone."""
        with self._wake:
            ready = [task for task in self._tasks if task.ready()]
            self._tasks = [task for task in self._tasks if task not in ready]
        for task in ready:
            try:
                task.done.set_result(task.function())
            except Exception as error:
                task.done.set_exception(error)

    def close(self, end: Exception) -> None:
        """Take no more; what waits fails."""
        with self._wake:
            self._end = end
            for task in self._tasks:
                task.done.set_exception(end)
            self._tasks = []
