"""What records decode steps for a check: CUDA graphs; without a card, a twin without any."""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from effchal.kernels.step_graphs import CudaRecording, StepGraphs
from gpu_check.measure import ON_CARD, finish


class RunAgain:
    """Takes a graph's place on a CPU: the same buffers, rows and columns, and no recording."""

    def __init__(self, work: Callable[[], Tensor], beside: Any) -> None:
        self._work, self.result = work, work()

    def replay(self) -> None:
        self.result.copy_(self._work())


class Counted(CudaRecording if ON_CARD else RunAgain):  # type: ignore[misc]
    """A recording; all that were made since `forget` are counted."""

    seconds: list[float] = []  # noqa: RUF012
    replays = 0

    def __init__(self, work: Callable[[], Tensor], beside: Any) -> None:
        finish()
        begun = time.perf_counter()
        super().__init__(work, beside)
        finish()
        Counted.seconds.append(time.perf_counter() - begun)

    def replay(self) -> None:
        Counted.replays += 1
        super().replay()


def forget() -> None:
    Counted.seconds, Counted.replays = [], 0


def graphs() -> dict[str, Any]:
    """How many were made and replayed, and how long a recording took."""
    seconds = Counted.seconds
    slowest = {"recording_ms": round(1000 * max(seconds), 1)} if seconds else {}
    failed = {"graphs_failed": True} if StepGraphs.failed else {}
    return {"graphs": len(seconds), "replays": Counted.replays} | slowest | failed
