"""Attention of all examples of a row in one launch, on CUDA: torch's variable-length kernel.

It needs no mask, neither for examples nor for a sliding window.
"""

import functools
import inspect
import itertools
from typing import Any

import torch
from torch import Tensor

FLASH_FROM = (8, 0)  # compute capability: Ampere
MOST_HEAD_DIM = 256


def runs_varlen(query: Tensor) -> bool:
    """Whether the kernel takes such queries, (1, H, T, d)."""
    size = query.shape[-1]
    fits = query.dtype in (torch.bfloat16, torch.float16) and size <= MOST_HEAD_DIM
    return query.is_cuda and fits and size % 8 == 0 and _has_kernel(query.device)


@functools.cache
def _has_kernel(device: torch.device) -> bool:
    """A card that a run is planned for, and that is not here, counts as new enough."""
    if not torch.cuda.is_available():
        return True
    return torch.cuda.get_device_capability(device) >= FLASH_FROM


@functools.lru_cache(maxsize=8)
def ends_of(lengths: tuple[int, ...], device: torch.device, fake_mode: Any = None) -> Tensor:
    """(examples + 1,) int32: where each example of a row begins, and where the last one ends.

    The layers of a pass share it. Fake tensors of one mode must not meet another's.
    """
    ends = [0, *itertools.accumulate(lengths)]
    return torch.tensor(ends, dtype=torch.int32).to(device, non_blocking=True)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Causal attention within each example of a row.

    Args:
        query: (1, H, T, d); key and value: (1, KV heads, T, d).
        lengths: of the examples.
        window: how many positions each one sees, itself among them; None: all before it.

    Returns:
        (1, T, H, d).
    """
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))  # (T, heads, d)
    ends = ends_of(lengths, query.device, getattr(query, "fake_mode", None))
    longest = max(lengths)
    # torch 2.11 takes grouped heads without a word.
    grouped = {"enable_gqa": q.shape[1] != k.shape[1]}
    options: dict[str, Any] = grouped if _asks_for_grouped_heads() else {}
    before = -1 if not window or longest <= window else window - 1
    mixed = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(before, 0), **options
    )
    assert isinstance(mixed, Tensor)  # it was asked for nothing more
    return mixed.unsqueeze(0)


@functools.cache
def _asks_for_grouped_heads() -> bool:
    """From torch 2.12 on."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters
