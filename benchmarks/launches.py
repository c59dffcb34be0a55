"""Launches of a card by kind, and waits of the host, for count_launches.py."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor  # private; checked with 2.11 to 2.14

from effchal.planning.traffic import Launch, Traffic, tensors_of

READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal")  # the host waits


@dataclass
class Counts:
    """Launches by kind and operation, and bytes that element-wise ones read and write."""

    element_wise: Counter[str] = field(default_factory=Counter)
    element_wise_bytes: Counter[str] = field(default_factory=Counter)
    products: Counter[str] = field(default_factory=Counter)  # dense, and those of 4-bit weights
    attention: Counter[str] = field(default_factory=Counter)
    waits: int = 0  # values that the host reads, or blocking copies to and from the device


class Launches(Traffic):
    """The planner's count, by operation, and the waits of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self._reading = False  # several values that are read one after the other are one wait

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func._schema.name.rpartition("::")[2]
        if name in READS:
            self.counts.waits += not self._reading
            self._reading = True
            if name in ("_local_scalar_dense", "item") and isinstance(args[0], FakeTensor):
                return (args[0].dtype in (torch.float32, torch.float64) and 0.5) or 1
            return func(*args, **(kwargs or {}))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if _crosses([*args, result]) and not (kwargs or {}).get("non_blocking"):
            self.counts.waits += 1
        return result

    def add(self, launch: Launch) -> None:
        super().add(launch)
        self._reading = False
        if launch.kind == "product":
            self.counts.products[launch.name] += 1
        elif launch.kind == "attention":
            self.counts.attention[launch.name] += 1
        else:
            self.counts.element_wise[launch.name] += 1
            self.counts.element_wise_bytes[launch.name] += launch.bytes


def _crosses(values: list[Any]) -> bool:
    """Whether data goes between host and device."""
    tensors = [each for each in tensors_of(values) if each.dim() or each.device.type != "cpu"]
    return len({each.device.type for each in tensors}) > 1
