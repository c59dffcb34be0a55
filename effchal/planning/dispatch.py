"""Private names of torch's dispatch, by which tensors are counted; checked with torch 2.13.0."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchDispatchMode", "schema_of", "storage_address"]


def storage_address(storage: torch.UntypedStorage) -> int:
    """What tells a storage from all others that live, fake ones among them."""
    return storage._cdata


def schema_of(operation: Any) -> Any:
    """The name and the arguments of an operation that __torch_dispatch__ is called with."""
    return operation._schema
