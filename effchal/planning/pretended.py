"""Fake tensors that are taken for those of the device that a run will have."""

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import (  # private; checked with 2.11 to 2.14
    FakeTensor,
    FakeTensorMode,
)


@contextlib.contextmanager
def pretended(device: torch.device) -> Iterator[None]:
    """FakeTensorMode, in which layers and loss take the way of `device`."""
    with FakeTensorMode(), claiming_cuda(device.type == "cuda"):
        yield


@contextlib.contextmanager
def claiming_cuda(claim: bool) -> Iterator[None]:
    """Within, fake CPU tensors say that they are on a card, for kernels that ask `is_cuda`.

    Autograd cannot run on fake tensors of a card where there is none.
    """
    if not claim:
        yield
        return
    FakeTensor.is_cuda = property(lambda self: True)  # type: ignore[assignment]
    try:
        yield
    finally:
        del FakeTensor.is_cuda
