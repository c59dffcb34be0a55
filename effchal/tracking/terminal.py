"""How a run or a long task shows: a live view on a terminal, or else lines of the log."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from effchal.tracking.progress_tasks import ProgressTask, log_progress, running
from effchal.tracking.shown import Shown

if TYPE_CHECKING:
    from effchal.tracking.view import View


class Advance(Protocol):
    """Says how much of a task is done, and how much there is where that is known by then."""

    def __call__(self, done: float, total: float | None = None) -> None: ...


log = logging.getLogger(__name__)
_drawn: "list[View]" = []  # the view that is on the screen, or none


def is_drawing() -> bool:
    """Whether a live view is on the screen."""
    return bool(_drawn) and _drawn[0].fault is None


@contextlib.contextmanager
def progress(
    what: str,
    total: float | None = None,
    unit: str = "",
    done: float = 0.0,
    ends: Callable[[], str] | None = None,
) -> Iterator[Advance]:
    """Tell how far a task is: in the live view, or else in a line now and then.

    with progress("encoding rows", len(rows), "rows") as advance:
        for number, row in enumerate(rows, start=1):
            ...
            advance(number)

    Args:
        total: None where nobody knows.
        unit: what is counted, in the plural, or B for bytes; empty for a task that counts nothing.
        done: before this process.
        ends: the estimate in words, where the task knows better.
    """
    task = ProgressTask(what, total, unit, done, ends)

    def advance(done: float, total: float | None = None) -> None:
        task.done, task.total = done, total or task.total

    with contextlib.ExitStack() as stack:
        if not _drawn:
            stack.enter_context(_on_screen(None))
        stack.enter_context(log_progress(task, lambda: not is_drawing()))
        yield advance


class RunDisplay:
    """How the loop of a run tells what it does. It never fails, and costs next to nothing."""

    def __init__(self, shown: Shown, view: "View | None") -> None:
        self.shown, self._view = shown, view

    def take(self, record: dict[str, Any], **known: Any) -> None:
        """Show a record of metrics.jsonl; `known` are other fields of Shown."""
        try:
            vars(self.shown).update(known)
            self.shown.take(record)
        except Exception as error:
            if self._view is not None:
                self._view.fault = self._view.fault or error


@contextlib.contextmanager
def run_display(shown: Shown) -> Iterator[RunDisplay]:
    """Show a run on a terminal until the block ends; its last state stays on the screen."""
    with _on_screen(shown) as view:
        yield RunDisplay(shown, view)


@contextlib.contextmanager
def _on_screen(shown: Shown | None) -> "Iterator[View | None]":
    """Draw a run, or whatever runs, while the block does; None where stderr is no terminal."""
    if _drawn or not _is_terminal():  # without rich, which takes a moment
        yield None
        return
    from effchal.tracking.screen import drawn

    with drawn(running, shown) as view:
        if view is not None:
            _drawn.append(view)
        try:
            yield view
        finally:
            _drawn.clear()
    if view is not None and view.fault is not None:
        log.warning("the live view stopped: %r; the run is not concerned", view.fault)


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False
