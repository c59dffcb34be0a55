"""Products of a few rows with tall float32 weights, where the library's own are slow on a CPU."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.kernels.scratch import ScratchBuffers

TILES = (256, 192, 128, 96, 64)  # outputs of a tile: 256 x 576 float32 stay in a CPU's cache
FEW_ROWS = 320  # from about 500 on, the library is as fast
TYPICAL_ROWS = 72  # that a packed weight is laid out for: 8 rows of 8 layers and the mature one


class TiledLinear:
    """F.linear of a few rows by a tall weight: up to three times as fast.

    The library's kernel reads the weight with one thread for a single row, and for more it first
    copies the whole weight into a layout of its own. In tiles, all threads read, and the copy stays
    in the cache.
    """

    def __init__(self, weight: Tensor, scratch: ScratchBuffers) -> None:
        """weight: (out, in). scratch: where results lie."""
        out = len(weight)
        self._weight = weight
        tile = next((size for size in TILES if out % size == 0 and out >= 6 * size), TILES[0])
        self._scratch, self._tile, self._out = scratch, tile, out
        self._count = out // tile
        self._cut = self._count * tile
        tall = weight[: self._cut].view(self._count, tile, weight.shape[1])
        self._tall = tall.transpose(1, 2)  # (tiles, in, tile)
        self._rest = weight[self._cut :]
        self._rows = 0  # that the next two are for
        self._product = self._result = weight

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out), valid until the next call with the same scratch buffers."""
        rows = x.shape[0]
        if self._count == 0 or rows > FEW_ROWS:
            return F.linear(x, self._weight)
        if rows != self._rows:
            self._rows = rows
            self._product = self._scratch.take("product", x, self._count, rows, self._tile)
            self._result = self._scratch.take("result", x, rows, self._out)
        torch.bmm(x.expand(self._count, -1, -1), self._tall, out=self._product)
        if rows == 1 and self._cut == self._out:
            return self._product.view(1, self._out)
        tiles = self._result[:, : self._cut].view(rows, self._count, self._tile)
        tiles.copy_(self._product.transpose(0, 1))
        if self._cut < self._out:
            self._result[:, self._cut :] = F.linear(x, self._rest)
        return self._result


def linear_by(weight: Tensor, scratch: ScratchBuffers) -> Callable[[Tensor], Tensor]:
    """F.linear by a weight, tiled where that is faster; the result is valid until the next call."""
    if is_float32_on_cpu(weight):
        return TiledLinear(weight, scratch)
    return functools.partial(F.linear, weight=weight)


class PackedLinear:
    """A tall weight in the layout of oneDNN's kernels, so that no call copies it.

    The original stays: embeddings may be the same matrix. A weight that was changed in place is
    packed again. The operations and the version counter are private to torch; checked with 2.13.0.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._packed_version = weight, -1
        self._packed: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, D) -> (rows, V), in memory of its own."""
        version = 0 if self._weight.is_inference() else self._weight._version
        if version != self._packed_version:
            self._packed_version = version
            self._packed = torch.ops.mkldnn._reorder_linear_weight(
                self._weight.detach(), TYPICAL_ROWS
            )
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")

    @staticmethod
    def suits(layer: Any) -> bool:
        able = torch.backends.mkldnn.is_available() and hasattr(
            torch.ops.mkldnn, "_linear_pointwise"
        )
        plain = type(layer) is nn.Linear and layer.bias is None
        return able and plain and is_float32_on_cpu(layer.weight)


def head_product(head: Any) -> Callable[[Tensor], Tensor]:
    """(rows, D) -> (rows, V) logits by a head, packed where that is faster."""
    return PackedLinear(head.weight) if PackedLinear.suits(head) else head


def is_float32_on_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
