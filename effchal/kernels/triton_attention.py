"""Attention of one new token a row under a mask, by Triton: keys that nobody sees are not read.

torch has no fast kernel for it: flash attention takes no mask, and the memory-efficient one reads
the keys of a row by one program for each head. Here a program takes some columns of a key head, for
all queries that share it, and a second kernel puts the parts together ("flash decoding").
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 64  # that a program reads at once
LEAST_QUERIES = 16  # of a product of tensor cores
PROGRAMS = 512  # enough for any card
MOST_PARTS = 128  # of a row's columns, which the second kernel holds together


@triton.jit(do_not_specialize=["columns"])
def _of_some_columns(
    q, k, v, mask, sums, highest, totals, scale, columns, queries, size, kv_heads,
    k_row, k_head, k_column, v_row, v_head, v_column, mask_row,
    STEPS: tl.constexpr, QUERIES: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row_head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, head = row_head // kv_heads, row_head % kv_heads
    query, number = tl.arange(0, QUERIES), tl.arange(0, SIZE)
    asks = (query < queries)[:, None] & (number < size)[None, :]
    mine = tl.load(
        q + (row_head * queries + query[:, None]) * size + number[None, :], mask=asks, other=0.0
    )
    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, SIZE], tl.float32)
    for step in range(STEPS):
        column = (part * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        added = tl.load(mask + row * mask_row + column, mask=column < columns, other=float("-inf"))
        added = added.to(tl.float32)
        seen = (added > float("-inf"))[:, None] & (number < size)[None, :]
        if tl.max(added) > float("-inf"):
            at = column.to(tl.int64)[:, None]
            keys = tl.load(
                k + row * k_row + head * k_head + at * k_column + number[None, :],
                mask=seen, other=0.0,
            )  # fmt: skip
            values = tl.load(
                v + row * v_row + head * v_head + at * v_column + number[None, :],
                mask=seen, other=0.0,
            )  # fmt: skip
            scores = tl.dot(mine, tl.trans(keys), input_precision="ieee") * scale + added[None, :]
            higher = tl.maximum(best, tl.max(scores, 1))
            weights, again = tl.exp(scores - higher[:, None]), tl.exp(best - higher)
            total = total * again + tl.sum(weights, 1)
            product = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
            mixed = mixed * again[:, None] + product
            best = higher
    place = (row_head * tl.num_programs(1) + part) * queries + query
    tl.store(sums + place[:, None] * SIZE + number[None, :], mixed, mask=(query < queries)[:, None])
    tl.store(highest + place, best, mask=query < queries)
    tl.store(totals + place, total, mask=query < queries)


@triton.jit
def _together(
    sums, highest, totals, y, parts, queries, size, PARTS: tl.constexpr, SIZE: tl.constexpr
):
    row_head, query = tl.program_id(0).to(tl.int64), tl.program_id(1)
    part, number = tl.arange(0, PARTS), tl.arange(0, SIZE)
    place = (row_head * parts + part) * queries + query
    best = tl.load(highest + place, mask=part < parts, other=float("-inf"))
    weight = tl.exp(best - tl.max(best))
    total = tl.sum(weight * tl.load(totals + place, mask=part < parts, other=0.0))
    of_parts = tl.load(
        sums + place[:, None] * SIZE + number[None, :], mask=(part < parts)[:, None], other=0.0
    )
    mixed = tl.sum(of_parts * weight[:, None], 0) / total
    at = (row_head * queries + query) * size + number
    tl.store(y + at, mixed.to(y.dtype.element_ty), mask=number < size)


def attention_of_new_tokens(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Like torch's scaled_dot_product_attention.

    Args:
        q: (B, kv heads, queries that share a key head, size).
        k, v: (B, kv heads, C, size), the last dimension in one piece.
        mask: (B, 1, 1, C), added to the scores; -inf where a row sees no column. Each sees one.
        scale: of the scores.

    Returns:
        (B, kv heads, queries, size).
    """
    rows, kv_heads, queries, size = q.shape
    columns, q = k.shape[2], q.contiguous()
    blocks = triton.cdiv(columns, COLUMNS)
    least = max(triton.cdiv(blocks * rows * kv_heads, PROGRAMS), triton.cdiv(blocks, MOST_PARTS))
    steps = triton.next_power_of_2(least)
    parts = triton.cdiv(blocks, steps)
    wide = triton.next_power_of_2(size)
    sums = q.new_empty(rows * kv_heads * parts * queries, wide, dtype=torch.float32)
    highest, totals = (sums.new_empty(len(sums)) for _ in range(2))
    y = torch.empty_like(q)
    _of_some_columns[(rows * kv_heads, parts)](
        q, k, v, mask, sums, highest, totals, scale, columns, queries, size, kv_heads,
        *k.stride()[:3], *v.stride()[:3], mask.stride(0),
        STEPS=steps, QUERIES=max(LEAST_QUERIES, triton.next_power_of_2(queries)), SIZE=wide,
        BLOCK=COLUMNS,
    )  # fmt: skip
    _together[(rows * kv_heads, queries)](
        sums, highest, totals, y, parts, queries, size,
        PARTS=triton.next_power_of_2(parts), SIZE=wide,
    )  # fmt: skip
    return y
