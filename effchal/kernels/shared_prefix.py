"""Attention of rows that begin with the same tokens, which are read once; pays on a CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from effchal.model.adapter_names import BASE

WORTH_SHARING = 2000  # columns that are not read again, from which two parts are faster than one


def groups_of(adapters: Sequence[str], rows: int) -> list[list[int]]:
    """Rows by adapter; keys and values of equal tokens are the same within a group."""
    names = adapters or [BASE] * rows
    return [[row for row in range(rows) if names[row] == name] for name in dict.fromkeys(names)]


def is_worth_sharing(shared: int, groups: list[list[int]]) -> bool:
    return shared * sum(len(group) - 1 for group in groups) >= WORTH_SHARING


def attention_with_shared_prefix(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    shared: int,
    groups: list[list[int]],
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
        groups: numbers of rows; each row is in one of them.
        scale: of the scores.

    Returns:
        (B, kv heads, Q, size).
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    of_own, log_own = kernel(q, k[:, :, shared:], v[:, :, shared:], attn_mask=mask, scale=scale)
    of_shared, log_shared = torch.empty_like(of_own), torch.empty_like(log_own)
    for group in groups:
        first, rows = slice(group[0], group[0] + 1), group if len(groups) > 1 else slice(None)
        together = q[rows].transpose(0, 1).flatten(1, 2)[None]  # (1, kv heads, rows * Q, size)
        found, logs = kernel(together, k[first, :, :shared], v[first, :, :shared], scale=scale)
        of_shared[rows] = found[0].unflatten(1, (len(group), -1)).transpose(0, 1)
        log_shared[rows] = logs[0].unflatten(-1, (len(group), -1)).transpose(0, 1)
    return torch.lerp(of_shared, of_own, torch.sigmoid(log_own - log_shared)[..., None])
