"""Element-wise work of a decoder layer by Triton: one kernel each, in float32, rounded once.

`elementwise.py` and `dropout.py` have the functions that these compute, and say what is what.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers that one program takes, where a row may be split


def _rows(x: Tensor) -> tuple[int, int]:
    """How many rows a contiguous tensor has, and how long they are."""
    return x.numel() // x.shape[-1], x.shape[-1]


def _warps(block: int) -> int:
    return min(16, max(1, block // 512))


@triton.jit
def _norm_row(x, at, inside, eps, size):
    """A row in float32, and 1 / its root mean square."""
    row = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    return row, 1 / tl.sqrt(tl.sum(row * row) / size + eps)


@triton.jit
def _normed(x, gain, y, eps, size, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < size
    at = tl.program_id(0).to(tl.int64) * size + column
    row, scale = _norm_row(x, at, inside, eps, size)
    gains = tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, (row * scale * gains).to(y.dtype.element_ty), mask=inside)


def normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    (rows, size), y = _rows(x), torch.empty_like(x)
    block = triton.next_power_of_2(size)
    _normed[(rows,)](x, gain, y, eps, size, BLOCK=block, num_warps=_warps(block))
    return y


@triton.jit
def _normed_backward(dy, x, gain, added, dx, eps, size, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < size
    at = tl.program_id(0).to(tl.int64) * size + column
    row, scale = _norm_row(x, at, inside, eps, size)
    gains = tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
    d_scaled = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32) * gains
    along = tl.sum(d_scaled * row) / size * scale * scale * scale
    found = d_scaled * scale - row * along
    if ADDS:
        found += tl.load(added + at, mask=inside).to(tl.float32)
    tl.store(dx + at, found.to(dx.dtype.element_ty), mask=inside)


def normed_backward(
    dy: Tensor, x: Tensor, gain: Tensor, eps: float, added: Tensor | None
) -> Tensor:
    dy, x = dy.contiguous(), x.contiguous()
    (rows, size), dx = _rows(x), torch.empty_like(x)
    block = triton.next_power_of_2(size)
    more = x if added is None else added.contiguous()
    _normed_backward[(rows,)](
        dy, x, gain, more, dx, eps, size, added is not None, BLOCK=block, num_warps=_warps(block)
    )
    return dx


@triton.jit
def _rotated(
    x, cos, sin, y, sign, count, all_heads, size, half, cos_stride, sin_stride,
    HEADS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, SIZE)[None, :]
    inside = (head < all_heads) & (column < size)
    turning = inside & (head < count) & (column < 2 * half)
    at = (position * all_heads + head) * size + column
    is_first = column < half
    other = at + tl.where(is_first, half, -half)  # the number that it is turned with
    angle = tl.where(is_first, column, column - half)
    c = tl.load(cos + position * cos_stride + angle, mask=turning, other=1.0).to(tl.float32)
    s = tl.load(sin + position * sin_stride + angle, mask=turning, other=0.0).to(tl.float32) * sign
    one = tl.load(x + at, mask=inside).to(tl.float32)
    two = tl.load(x + other, mask=turning, other=0.0).to(tl.float32)
    turned = one * c + tl.where(is_first, -two, two) * s
    tl.store(y + at, turned.to(y.dtype.element_ty), mask=inside)


def rotated(heads: Tensor, cos: Tensor, sin: Tensor, count: int, sign: float) -> Tensor:
    heads = heads.contiguous()
    positions, all_heads, size = heads.shape
    y = torch.empty_like(heads)
    blocks = triton.next_power_of_2(all_heads), triton.next_power_of_2(size)
    _rotated[(positions,)](
        heads, cos, sin, y, sign, count, all_heads, size, cos.shape[-1],
        cos.stride(0), sin.stride(0), *blocks, num_warps=_warps(blocks[0] * blocks[1]),
    )  # fmt: skip
    return y


@triton.jit
def _activated(x, NAME: tl.constexpr):
    """An activation and its derivative."""
    if NAME == "silu":
        logistic = tl.sigmoid(x)
        y = x * logistic
        slope = logistic + y * (1 - logistic)
    elif NAME == "gelu":
        phi = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        y = x * phi
        slope = phi + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    else:  # gelu_tanh; tanh(u) = 2 sigmoid(2 u) - 1
        u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        tanh = 2 * tl.sigmoid(2 * u) - 1
        y = 0.5 * x * (1 + tanh)
        du = 0.7978845608028654 * (1 + 0.134145 * x * x)
        slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * du
    return y, slope


@triton.jit
def _gated(gate_up, y, size, NAME: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(gate_up + row * 2 * size + column, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + column, mask=inside).to(tl.float32)
    activated, _ = _activated(gate, NAME)
    tl.store(y + row * size + column, (activated * up).to(y.dtype.element_ty), mask=inside)


def gated(gate_up: Tensor, name: str) -> Tensor:
    gate_up = gate_up.contiguous()
    rows, both = _rows(gate_up)
    y = gate_up.new_empty(*gate_up.shape[:-1], both // 2)
    _gated[(rows, triton.cdiv(both // 2, BLOCK))](gate_up, y, both // 2, NAME=name, BLOCK=BLOCK)
    return y


@triton.jit
def _gated_backward(gate_up, dy, d_both, size, NAME: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    first = row * 2 * size + column
    gate = tl.load(gate_up + first, mask=inside).to(tl.float32)
    up = tl.load(gate_up + first + size, mask=inside).to(tl.float32)
    d = tl.load(dy + row * size + column, mask=inside).to(tl.float32)
    activated, slope = _activated(gate, NAME)
    tl.store(d_both + first, (d * up * slope).to(d_both.dtype.element_ty), mask=inside)
    tl.store(d_both + first + size, (d * activated).to(d_both.dtype.element_ty), mask=inside)


def gated_backward(gate_up: Tensor, dy: Tensor, name: str) -> Tensor:
    gate_up, dy = gate_up.contiguous(), dy.contiguous()
    (rows, both), d_both = _rows(gate_up), torch.empty_like(gate_up)
    grid = rows, triton.cdiv(both // 2, BLOCK)
    _gated_backward[grid](gate_up, dy, d_both, both // 2, NAME=name, BLOCK=BLOCK)
    return d_both


@triton.jit(do_not_specialize=["seed", "least"])
def _dropped(x, added, y, seed, least, size, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    # SplitMix64's hash of the place.
    place = (row * 1048576 + column).to(tl.uint64)
    hashed = place * 0x9E3779B97F4A7C15 + tl.cast(seed, tl.uint64)
    hashed = (hashed ^ (hashed >> 30)) * 0xBF58476D1CE4E5B9
    hashed = (hashed ^ (hashed >> 27)) * 0xBF58476D1CE4E5B9
    stays = (hashed >> 40).to(tl.int64) < least
    at = row * size + column
    found = tl.where(stays, tl.load(x + at, mask=inside).to(tl.float32), 0.0)
    if ADDS:
        found += tl.load(added + at, mask=inside).to(tl.float32)
    tl.store(y + at, found.to(y.dtype.element_ty), mask=inside)


def dropped(x: Tensor, least: int, seed: int) -> Tensor:
    return _with_dropped(x, None, least, seed)


def added_dropped(x: Tensor, added: Tensor, least: int, seed: int) -> Tensor:
    return _with_dropped(x, added, least, seed)


def _with_dropped(x: Tensor, added: Tensor | None, least: int, seed: int) -> Tensor:
    x = x.contiguous()
    (rows, size), y = _rows(x), torch.empty_like(x)
    more = x if added is None else added.contiguous()
    grid = rows, triton.cdiv(size, BLOCK)
    _dropped[grid](x, more, y, seed, least, size, added is not None, BLOCK=BLOCK)
    return y


@triton.jit
def _unpacked(
    packed, absmax, code, scales, scale_code, offset, out, count,
    VALUES: tl.constexpr, NESTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    at = program * BLOCK + tl.arange(0, BLOCK)  # bytes, of two values each
    inside = at < count
    byte = tl.load(packed + at, mask=inside, other=0).to(tl.int32)
    block = at // (VALUES // 2)
    scale = tl.load(absmax + block, mask=inside, other=0).to(tl.int32)
    largest = tl.load(scale_code + scale) * tl.load(
        scales + block // NESTED, mask=inside, other=0.0
    )
    largest += tl.load(offset)
    first, second = tl.load(code + (byte >> 4)), tl.load(code + (byte & 15))
    both = tl.interleave(first * largest, second * largest)
    place = program * BLOCK * 2 + tl.arange(0, BLOCK * 2)
    tl.store(out + place, both.to(out.dtype.element_ty), mask=place < 2 * count)


def unpack_4_bits(packed: Tensor, state: Any, out: Tensor) -> Tensor:
    """Write a weight of bitsandbytes, whose scales are in 8 bits, to `out`: one launch, not three.

    Args:
        packed: (n, 1) uint8, two values each.
        state: bitsandbytes' QuantState, nested.
        out: (out, in), contiguous.
    """
    count = packed.numel()
    _unpacked[(triton.cdiv(count, BLOCK),)](
        packed, state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset, out,
        count, VALUES=state.blocksize, NESTED=state.state2.blocksize, BLOCK=BLOCK,
        enable_fp_fusion=False,  # as bitsandbytes rounds
    )  # fmt: skip
    return out
