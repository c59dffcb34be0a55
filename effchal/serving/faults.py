"""What the scheduler does about a fault of its engine."""

import logging
import traceback

import torch

from effchal.model.faults import is_device_lost, release

log = logging.getLogger(__name__)


class DeviceLost(RuntimeError):
    """The GPU does nothing more for this process; a fresh one can use it again."""


class Faults:
    """Logs faults, frees what they hold, and finds out whether the engine can go on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = ""

    def note(self, error: Exception) -> None:
        """Log a fault, one that repeats without its traceback; free what its frames hold.

        Raises:
            DeviceLost: nothing can be computed any more.
        """
        if isinstance(error, DeviceLost):
            raise error
        repeats, self._last = repr(error) == self._last, repr(error)
        # As text: a handler that keeps log records would keep the frames.
        frames = "" if repeats else "\n" + "".join(traceback.format_exception(error))
        log.error("the engine failed: %r%s", error, frames.rstrip())
        release(error)
        if is_device_lost(error, self._device):
            first_line = str(error).partition("\n")[0]
            raise DeviceLost(f"{self._device} is lost to this process: {first_line}") from None
