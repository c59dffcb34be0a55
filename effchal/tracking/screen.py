"""The live view on the screen: rich's Live on stderr, whatever becomes of the terminal."""

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import TextIO, cast

from rich.console import Console
from rich.live import Live

from effchal.tracking.progress_tasks import ProgressTask
from effchal.tracking.shown import Shown
from effchal.tracking.view import REFRESHES_PER_S, View


class Forgiving(io.TextIOBase):
    """A terminal that may go away, or lack a character, without an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        known = text.encode(self.encoding, "replace").decode(self.encoding)
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(known)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@contextlib.contextmanager
def drawn(tasks: list[ProgressTask], shown: Shown | None) -> Iterator[View | None]:
    """Draw while the block runs. None for a terminal that cannot move its cursor (TERM=dumb)."""
    console = Console(file=cast(TextIO, Forgiving(sys.stderr)))
    if not console.is_interactive:
        yield None
        return
    view = View(tasks, shown)
    live = Live(
        view,
        console=console,
        refresh_per_second=REFRESHES_PER_S,
        transient=shown is None,
        redirect_stdout=sys.stdout.isatty(),  # a file gets what is printed, and the view does not
    )
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(live)
        except Exception as error:
            view.fault = error
        yield view
