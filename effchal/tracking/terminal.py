"""What a person at a terminal sees of a long job."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def progress_bar(total: int, done: int, unit: str) -> Iterator[Any]:
    """Show a bar on a terminal, with log lines above it. Yields advance(done), which moves it."""
    from rich.console import Console
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    root = logging.getLogger()
    plain = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    rich_handler = RichHandler(
        console=console, show_path=False, highlighter=NullHighlighter(), log_time_format="%H:%M:%S"
    )
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(unit, total=total, completed=done)
        for handler in plain:
            root.removeHandler(handler)
        root.addHandler(rich_handler)
        try:
            yield lambda done: bar.update(task, completed=done)
        finally:
            root.removeHandler(rich_handler)
            for handler in plain:
                root.addHandler(handler)
