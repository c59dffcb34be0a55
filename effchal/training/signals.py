"""SIGTERM, SIGINT and Slurm's signals, so that a run saves before it ends."""

import logging
import signal
from typing import Any

log = logging.getLogger("effchal.train")


SLURM = (signal.SIGUSR1, signal.SIGUSR2)  # what Slurm sends ahead of a job's end


class StopSignals:
    """A signal ends the run after the current step; a second SIGINT ends it at once.

    SIGUSR1 and SIGUSR2 are Slurm's warning. Who listened to them before, such as submitit, which
    puts the job back into the queue, gets them once the run has saved.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGTERM, signal.SIGINT, *SLURM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        handler = self._before.get(signal.Signals(self.received)) if self.received else None
        if self.received in SLURM and callable(handler):
            handler(self.received, None)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        log.warning("%s: saving after this step", signal.Signals(number).name)
