"""Memory that is used again and again."""

import math

import torch
from torch import Tensor


class ScratchBuffers:
    """Scratch buffers by name. A buffer is overwritten by the next `take` of that name.

    Allocating fresh pages would cost as much as writing them.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of `like`'s dtype and device."""
        count = math.prod(shape)
        if name not in self._buffers or len(self._buffers[name]) < count:
            with torch.inference_mode(False):  # made inside, it could not be written outside
                self._buffers[name] = like.new_empty(count)
        return self._buffers[name][:count].view(shape)

    def buffers(self) -> list[Tensor]:
        """All memory that there is now; `take` may replace a buffer by a larger one."""
        return list(self._buffers.values())
