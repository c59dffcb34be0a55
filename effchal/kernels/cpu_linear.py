"""Products of a few rows with the weights of linear layers, where the library's own are slow on a CPU."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.model.host_memory import release_pages
from effchal.model.load import multiplies_bfloat16

BLOCKS_OUT = (
    256,
    192,
    128,
    96,
    64,
)  # outputs that a CPU works on at once: 256 x 576 float32 stay in its cache
WIDENED_AT_ONCE = (
    2**21
)  # numbers; 8 MB in float32, which a CPU's cache still holds when they are multiplied
FEWEST_OUT = 384  # outputs of a piece, or a multiple: the fewest that make blocks for all threads
FEW_ROWS = 320  # from about 500 on, the library is as fast
TYPICAL_ROWS = 72  # that a packed weight is laid out for: 8 rows, 8 layers and the mature one; good for 1 and 9 too


class ScratchBuffers:
    """Memory for results that are used up before the next ones come: fresh pages would cost as much as filling them."""

    def __init__(self) -> None:
        self._parts: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor, in the memory that `name` had the last time."""
        count = math.prod(shape)
        if name not in self._parts or len(self._parts[name]) < count:
            with torch.inference_mode(
                False
            ):  # memory that was made inside could not be written outside
                self._parts[name] = like.new_empty(count)
        return self._parts[name][:count].view(shape)


def is_narrow(weight: Tensor) -> bool:
    """Whether a weight is bfloat16 where there is no arithmetic for it; it is then widened where it is used."""
    return weight.dtype == torch.bfloat16 and not multiplies_bfloat16(weight.device)


class TiledLinear:
    """F.linear for a few rows and a tall weight, on a CPU in float32: up to three times as fast.

    The library's kernel reads the weight with one thread for a single row, and for more copies the whole of it into
    a layout of its own first. In blocks, all threads read, and the copy stays in the cache.
    """

    def __init__(self, weight: Tensor, room: ScratchBuffers) -> None:
        """weight: (out, in). room: where results lie."""
        out = len(weight)
        self._weight = weight
        block = next(
            (size for size in BLOCKS_OUT if out % size == 0 and out >= 6 * size), BLOCKS_OUT[0]
        )
        self._room, self._block, self._out = room, block, out
        self._count = out // block
        self._cut = self._count * block
        tall = weight[: self._cut].view(self._count, block, weight.shape[1])
        self._tall = tall.transpose(1, 2)  # (blocks, in, block)
        self._rest = weight[self._cut :]
        self._rows = 0  # that the next two are for
        self._product = self._result = weight

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out). The result holds until the next call with the same room."""
        rows = x.shape[0]
        if self._count == 0 or rows > FEW_ROWS:
            return F.linear(x, self._weight)
        if rows != self._rows:
            self._rows = rows
            self._product = self._room.take("product", x, self._count, rows, self._block)
            self._result = self._room.take("result", x, rows, self._out)
        torch.bmm(x.expand(self._count, -1, -1), self._tall, out=self._product)
        if rows == 1 and self._cut == self._out:
            return self._product.view(1, self._out)
        self._result[:, : self._cut].view(rows, self._count, self._block).copy_(
            self._product.transpose(0, 1)
        )
        if self._cut < self._out:
            self._result[:, self._cut :] = F.linear(x, self._rest)
        return self._result


class Bf16Linear:
    """F.linear by a narrow weight, in float32: piece by piece, each multiplied while it is still in the cache."""

    def __init__(self, weight: Tensor, room: ScratchBuffers) -> None:
        """weight: (out, in). room: where pieces and results lie."""
        self._room, self._out = room, len(weight)
        rows = WIDENED_AT_ONCE // weight.shape[1] // FEWEST_OUT * FEWEST_OUT
        self._pieces = weight.split(max(FEWEST_OUT, rows))
        self._widened = [self._memory(piece) for piece in self._pieces]
        self._blocks = [TiledLinear(memory, room) for memory in self._widened]

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out). The result holds until the next call with the same room."""
        result, out = None, 0
        for piece, memory, blocks in zip(self._pieces, self._widened, self._blocks, strict=True):
            memory.copy_(piece)
            part = blocks(x)
            if len(self._pieces) == 1:
                return part
            if result is None:
                result = self._room.take("joined", x, x.shape[0], self._out)
            result[:, out : out + len(piece)] = part
            out += len(piece)
        return result

    def _memory(self, piece: Tensor) -> Tensor:
        """For a piece in float32, the same for all of its shape."""
        # One for all shapes was slower: it seems that threads write where another's cache holds the last piece.
        like = piece.new_empty(0, dtype=torch.float32)
        return self._room.take(f"weight {tuple(piece.shape)}", like, *piece.shape)


def product(weight: Tensor, room: ScratchBuffers) -> Callable[[Tensor], Tensor]:
    """F.linear by a weight, in the way that is fast; the result holds until the next call with the same room."""
    if is_narrow(weight):
        return Bf16Linear(weight, room)
    if is_wide_on_cpu(weight):
        return TiledLinear(weight, room)
    return functools.partial(F.linear, weight=weight)


class PackedLinear:
    """A tall weight in the layout of oneDNN's kernels, for products that all rows of a step pay for; no copy a call.

    The original stays: embeddings may be the same matrix. It is packed again where somebody changed it in place, and
    in float32 also where it is bfloat16.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._version = weight, -1
        self._packed: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, D) -> (rows, V), in memory of its own."""
        version = 0 if self._weight.is_inference() else self._weight._version
        if version != self._version:
            self._version = version
            self._packed = torch.ops.mkldnn._reorder_linear_weight(
                self._weight.detach().float(), TYPICAL_ROWS
            )
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")

    @staticmethod
    def suits(layer: nn.Module) -> bool:
        weight = getattr(layer, "weight", None)
        plain = type(layer) is nn.Linear and layer.bias is None
        able = torch.backends.mkldnn.is_available() and hasattr(
            torch.ops.mkldnn, "_linear_pointwise"
        )
        return plain and able and is_wide_on_cpu(weight)


def is_wide_on_cpu(weight: Tensor) -> bool:
    """Whether products with a weight are a CPU's in float32."""
    return weight.device.type == "cpu" and (weight.dtype == torch.float32 or is_narrow(weight))


class Lora:
    """What peft adds to a linear layer: scale * B(A(x)), of one plain adapter that is not merged."""

    def __init__(self, module: nn.Module) -> None:
        (name,) = module.active_adapters
        self.a, self.b = module.lora_A[name].weight, module.lora_B[name].weight  # (r, in), (out, r)
        self.scale = module.scaling[name]

    def convert(self, dtype: torch.dtype) -> None:
        """peft loads adapters in float32; a step multiplies them in its own dtype, as fused training does."""
        if self.a.dtype != dtype:
            self.a, self.b = (
                nn.Parameter(part.detach().to(dtype), requires_grad=False)
                for part in (self.a, self.b)
            )


def plain_parts(module: nn.Module) -> tuple[nn.Linear, Lora | None] | None:
    """The linear layer and the adapter of a module, or None where it is more than these (NF4, DoRA, merged, ...)."""
    if type(module) is nn.Linear:
        return module, None
    base = getattr(module, "base_layer", None)
    if type(base) is not nn.Linear or type(module).__module__ != "peft.tuners.lora.layer":
        return None
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    name = module.active_adapters[0]
    if (
        name not in module.lora_A
        or getattr(module, "lora_variant", {}).get(name)
        or module.lora_bias.get(name)
    ):
        return None
    lora = Lora(module)
    return (base, lora) if lora.a.dtype == lora.b.dtype else None


def fused(weights: list[nn.Parameter]) -> Tensor:
    """(sum of outs, in): weights one below the other, in one memory; they become views of it."""
    end = weights[0].storage_offset()
    together = all(weight.is_contiguous() for weight in weights)
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == weights[0].untyped_storage().data_ptr()
        together = together and same and weight.storage_offset() == end
        end += weight.numel()
    if not together:
        whole = torch.cat([weight.data for weight in weights])
        for weight, part in zip(
            weights, whole.split([len(weight) for weight in weights]), strict=True
        ):
            copied, weight.data = weight.data, part
            if is_narrow(
                copied
            ):  # mapped from the file; what was converted lies in the heap, which gets it back
                release_pages(copied)
    first = weights[0].data
    return first.as_strided((sum(map(len, weights)), first.shape[1]), (first.shape[1], 1))


class FusedLinear:
    """Linear layers that read the same input, as one product; (rows, in) -> (rows, sum of outs).

    Their weights are laid one below the other, once. Modules that are more than weight, bias and a plain adapter are
    called as they are.
    """

    def __init__(self, modules: list[nn.Module], room: ScratchBuffers) -> None:
        self._modules = modules
        parts = [plain_parts(module) for module in modules]
        self._product: Callable[[Tensor], Tensor] | None = None
        if None in parts:
            return
        bases, loras = [base for base, _ in parts], [lora for _, lora in parts]
        if len({base.bias is None for base in bases}) > 1:
            return
        weight = fused([base.weight for base in bases])
        for lora in filter(None, loras):
            lora.convert(torch.float32 if is_narrow(weight) else weight.dtype)
        self._product = product(weight, room)
        self._bias = (
            None if bases[0].bias is None else torch.cat([base.bias.data for base in bases])
        )
        self._a = fused([lora.a for lora in loras if lora]) if any(loras) else None
        self._ups: list[
            tuple[slice, slice, Lora]
        ] = []  # columns of A's product, of the result, and what goes there
        out = rank = 0
        for base, lora in parts:
            if lora:
                self._ups.append(
                    (slice(rank, rank + len(lora.a)), slice(out, out + len(base.weight)), lora)
                )
                rank += len(lora.a)
            out += len(base.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """The result holds until the next call with the same room."""
        if self._product is None:
            parts = [module(x) for module in self._modules]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        result = self._product(x)
        if self._bias is not None:
            result += self._bias
        if self._a is not None:
            low = F.linear(x, self._a)  # (rows, sum of r)
            for rank, out, lora in self._ups:
                result[:, out].addmm_(low[:, rank], lora.b.t(), alpha=lora.scale)
        return result
