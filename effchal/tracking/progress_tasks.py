"""Long tasks and how far they are: one inside another, told in lines at growing intervals."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from effchal.tracking.words import amount, duration, rate

FIRST_S, MOST_S = 5.0, 30.0  # until a task is first told of, and at most between two lines
log = logging.getLogger("effchal.progress")


@dataclass(eq=False)
class ProgressTask:
    """One thing that takes a while."""

    what: str
    total: float | None = None
    unit: str = ""
    done: float = 0.0
    ends: Callable[[], str] | None = None  # the estimate, where the task knows better
    began_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.first = self.done  # a resumed task did this before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began_s

    @property
    def per_s(self) -> float | None:
        made, seconds = self.done - self.first, self.seconds
        return made / seconds if made > 0 and seconds > 0 else None

    def amount(self) -> str:
        """What is done; empty for a task that counts nothing."""
        return amount(self.done, self.total, self.unit) if self.unit else ""

    def estimate(self) -> str:
        """When it ends; empty where nothing is known of that."""
        if self.ends is not None:
            return self.ends()
        if not self.total or self.per_s is None or self.done > self.total:
            return ""
        return f"{duration((self.total - self.done) / self.per_s)} left"

    def line(self) -> str:
        parts = [self.amount()]
        if self.total:
            parts.append(f"{self.done / self.total:.0%}")
        if self.unit and self.per_s is not None:
            parts.append(rate(self.per_s, self.unit))
        parts.append(self.estimate() or f"{duration(self.seconds)} so far")
        return f"{self.what}: {', '.join(filter(None, parts))}"

    def last_line(self) -> str:
        parts = [self.amount(), duration(self.seconds)]
        return f"{self.what}: {' in '.join(filter(None, parts))}"


running: list[ProgressTask] = []  # each inside the one before


@contextlib.contextmanager
def log_progress(task: ProgressTask, in_lines: Callable[[], bool]) -> Iterator[None]:
    """Keep a task in `running` while the block runs, and log how far it is.

    Nothing is said of a task that ends soon, nor of one while another inside it runs.

    Args:
        in_lines: asked before each line; False where a live view shows the task.
    """
    over = threading.Event()
    was_told = False

    def tell() -> None:
        nonlocal was_told
        wait_s = FIRST_S
        while not over.wait(wait_s):
            wait_s = min(2 * wait_s if was_told else wait_s, MOST_S)
            if running and running[-1] is task and in_lines():
                was_told = True
                log.info("%s", task.line())

    running.append(task)
    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        running.remove(task)
        teller.join()
        if was_told and in_lines():
            log.info("%s", task.last_line())
