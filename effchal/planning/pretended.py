"""Fake tensors that are taken for those of the device that a run will have."""

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import (  # private; checked with 2.11 to 2.14
    FakeTensor,
    FakeTensorMode,
)

from effchal.kernels import loss


@contextlib.contextmanager
def pretended(device: torch.device) -> Iterator[None]:
    """FakeTensorMode, in which layers and loss take the way of `device`."""
    with FakeTensorMode(), claiming_cuda(device.type == "cuda"), _chunks_of(device):
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


@contextlib.contextmanager
def _chunks_of(device: torch.device) -> Iterator[None]:
    """Loss chunks as large as on `device`, for fake tensors that lie on a CPU."""
    own = loss.CHUNK_ELEMENTS["cpu"]
    loss.CHUNK_ELEMENTS["cpu"] = loss.CHUNK_ELEMENTS[device.type]
    try:
        yield
    finally:
        loss.CHUNK_ELEMENTS["cpu"] = own
