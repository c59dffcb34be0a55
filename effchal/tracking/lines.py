"""Lines of a log on stderr: `HH:MM:SS message`, whoever writes them."""

import logging
import sys
import warnings
from typing import Any, TextIO

from effchal.tracking.terminal import is_drawing

log = logging.getLogger("effchal.warnings")
LIBRARIES = ("datasets", "huggingface_hub", "transformers")  # those that write to stderr themselves
DRAWN = {"drawn": True}  # extra= of a line that a live view shows by itself


class LineFormatter(logging.Formatter):
    """The time before each line, and what it is before a warning or an error."""

    def __init__(self, *_: Any, **__: Any) -> None:  # dictConfig tells it a format
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        kind = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        time = self.formatTime(record, "%H:%M:%S")
        lines = (kind + super().format(record)).strip().splitlines() or [""]
        return "\n".join(f"{time} {line}" for line in lines)


class StderrHandler(logging.Handler):
    """Writes to what sys.stderr is at that moment: a live view puts its own there."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """`stream` is what Hydra's own config says, and has no meaning here."""
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "drawn", False) and is_drawing():
            return
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # the terminal is gone, and the run goes on
            pass
        except Exception:
            self.handleError(record)


def log_warnings() -> None:
    """Have Python's warnings come out as lines of the log."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        log.warning("%s: %s", category.__name__, " ".join(str(message).split()))

    warnings.showwarning = show


def adopt_libraries() -> None:
    """Have libraries log through our handlers, once they are imported."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler):
                logger.removeHandler(handler)
        logger.propagate = True


def log_to_stderr() -> None:
    """Configure logging for a script, as conf/config.yaml does for a command."""
    handler = StderrHandler()
    handler.setFormatter(LineFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger("effchal").setLevel(logging.INFO)
    log_warnings()
