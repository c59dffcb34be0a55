"""Attention of rows that begin with the same tokens, which are read once; pays on a CPU."""

import torch
from torch import Tensor

WORTH_SHARING = 2000  # columns that are not read again, from which two parts are faster than one


def is_worth_sharing(shared: int, rows: int) -> bool:
    return shared * (rows - 1) >= WORTH_SHARING


def attention_with_shared_prefix(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, shared: int, scale: float
) -> Tensor:
    """Attention in two parts: the shared columns, read from the first row, and each row's own.

    Each part's result is weighed by its share of the softmax's sum, which the kernel gives as a
    logarithm. That kernel is private to torch; checked with 2.13.0.

    Args:
        q: (B, kv heads, Q, size), on a CPU.
        k, v: (B, kv heads, C, size), the same in all rows up to column `shared`; each token sees
            at least one of the others.
        mask: (B, 1, Q or 1, C - shared), added to the scores of the other columns, or None.
        scale: of the scores.

    Returns:
        (B, kv heads, Q, size).
    """
    rows, heads, queries, size = q.shape
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    together = q.transpose(0, 1).reshape(1, heads, rows * queries, size)
    of_shared, log_shared = kernel(together, k[:1, :, :shared], v[:1, :, :shared], scale=scale)
    of_own, log_own = kernel(q, k[:, :, shared:], v[:, :, shared:], attn_mask=mask, scale=scale)
    of_shared = of_shared.view(heads, rows, queries, size).transpose(0, 1)
    log_shared = log_shared.reshape(heads, rows, queries).transpose(0, 1)
    share_of_own = torch.sigmoid(log_own.view(rows, heads, queries) - log_shared)
    return torch.lerp(of_shared, of_own, share_of_own[..., None])
