"""SIGTERM and SIGINT, so that a run saves before it ends."""

import logging
import signal
from typing import Any

log = logging.getLogger("effchal.train")


class StopSignals:
    """SIGTERM or SIGINT ends the run after the current step; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        log.warning("%s: saving after this step", signal.Signals(number).name)
