"""Attention of rows that begin with the same tokens, which are read once; pays on a CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from effchal.model.adapter_names import BASE

_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
WORTH_SHARING = 2000  # columns that are not read again, from which two parts are faster than one


def groups_of(adapters: Sequence[str], rows: int) -> list[Tensor]:
    """Numbers of the rows of each adapter, (n,) int64.

    Keys and values of equal tokens are the same within a group.
    """
    names = adapters or [BASE] * rows
    return [
        torch.tensor([row for row in range(rows) if names[row] == name])
        for name in dict.fromkeys(names)
    ]


def is_worth_sharing(shared: int, groups: list[Tensor]) -> bool:
    return shared * sum(len(group) - 1 for group in groups) >= WORTH_SHARING


def attention_with_shared_prefix(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    shared: int,
    groups: list[Tensor],
    scale: float,
) -> Tensor:
    """Attention in two parts: the shared columns, read once for a group, and each row's own.

    Each part's result is weighed by its share of the softmax's sum, which the kernel gives as a
    logarithm. That kernel is private to torch; checked with 2.13.0.

    Args:
        q: (B, kv heads, Q, size), on a CPU.
        k, v: (B, kv heads, C, size), the same in all rows of a group up to column `shared`; each
            token sees at least one of the others.
        mask: (B, 1, Q or 1, C - shared), added to the scores of the other columns, or None.
        shared: columns.
        groups: as `groups_of` gives them; each row is in one of them.
        scale: of the scores.

    Returns:
        (B, kv heads, Q, size).
    """
    of_own, log_own = _KERNEL(q, k[:, :, shared:], v[:, :, shared:], attn_mask=mask, scale=scale)
    if len(groups) == 1:
        of_shared, log_shared = _attend_together(q, k[:1, :, :shared], v[:1, :, :shared], scale)
    else:
        of_shared, log_shared = torch.empty_like(of_own), torch.empty_like(log_own)
        for rows in groups:
            first = slice(int(rows[0]), int(rows[0]) + 1)  # no copy, unlike a tensor of numbers
            parts = k[first, :, :shared], v[first, :, :shared]
            found, logs = _attend_together(q.index_select(0, rows), *parts, scale)
            of_shared.index_copy_(0, rows, found)
            log_shared.index_copy_(0, rows, logs)
    return torch.lerp(of_shared, of_own, torch.sigmoid(log_own - log_shared)[..., None])


def _attend_together(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(B, kv heads, Q, size) and (B, kv heads, Q): attention of all rows to the columns of one.

    Args:
        q: (B, kv heads, Q, size).
        k, v: (1, kv heads, C, size).
    """
    together = q.transpose(0, 1).flatten(1, 2)[None]  # (1, kv heads, B * Q, size)
    found, logs = _KERNEL(together, k, v, scale=scale)
    of_rows = found[0].unflatten(1, (len(q), -1)).transpose(0, 1)
    return of_rows, logs[0].unflatten(-1, (len(q), -1)).transpose(0, 1)
