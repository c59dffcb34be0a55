"""How far the host may be ahead of a device that works asynchronously."""

import torch


class DeviceQueue:
    """Keeps the host at most one micro-batch ahead, so that its clock times work, not queueing."""

    def __init__(self, device: torch.device) -> None:
        self._is_asynchronous = device.type == "cuda"
        self._last: torch.cuda.Event | None = None

    def end_micro_batch(self) -> int:
        """Call once a micro-batch is queued; waits for the one before it.

        Returns:
            How many micro-batches the device still works on; none on a CPU.
        """
        if not self._is_asynchronous:
            return 0
        event = torch.cuda.Event()
        event.record()
        if self._last is not None:
            self._last.synchronize()
        self._last = event
        return 1
