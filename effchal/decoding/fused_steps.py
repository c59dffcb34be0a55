"""New tokens of rows as chunks for the layers, and a step of all rows as a CUDA graph does it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effchal.decoding.kv_cache import attention_mask
from effchal.decoding.layer_logits import Tap
from effchal.decoding.transfer import upload
from effchal.kernels.fused_forward import Chunk
from effchal.kernels.step_graphs import Step

if TYPE_CHECKING:
    from effchal.decoding.taps import NewTokens


def chunk_of(new: "NewTokens", config: Any, use_fused: bool) -> Chunk:
    """Prepares the cache for the new tokens."""
    rows, count = new.ids.shape
    position_ids = new.cache.extend(new.first, rows, count, new.ids.device)  # (rows, new)
    visible, mask = masks(config, position_ids, new.cache.total())
    sees_all_it_has = count == 1 and mask is visible
    lengths = new.cache.lengths[new.first : new.first + rows]
    if use_fused and sees_all_it_has and len(set(lengths)) == 1:
        mask = None
    shared = new.shared if sees_all_it_has else 0
    return Chunk(new.ids, position_ids, new.cache, mask, shared, new.adapters)


def masks(config: Any, position_ids: Tensor, total: int) -> tuple[Tensor, Any]:
    """(rows, 1, new, total) bool without windows, and the backbone's attention_mask."""
    columns = torch.arange(total, device=position_ids.device)[None]  # (1, C)
    visible = (columns[:, None] <= position_ids[:, :, None])[:, None]
    return visible, attention_mask(config, visible, position_ids, columns)


def is_step_of_all_rows(new: "list[NewTokens]") -> bool:
    """Whether these are one token for each row of a cache, all by one adapter."""
    first, *others = new
    alike = first.ids.shape[1] == 1 and len(set(first.adapters)) < 2
    return alike and not others and not first.first and not first.shared


def graph_step(
    new: "NewTokens",
    config: Any,
    taps: tuple[Tap, ...],
    at: Tensor,
    states: Callable[[list[Chunk], tuple[Tap, ...], Tensor], Tensor],
) -> Step:
    """A step of all rows, as StepGraphs takes it.

    Args:
        at: (rows,) int64: each row's token.
        states: runs chunks through the layers, (K + 1, P, D).
    """
    cache, adapter = new.cache, new.adapters[:1]

    def plain() -> Tensor:
        return states([chunk_of(new, config, True)], taps, at)

    def starts(rows: int) -> Tensor:
        return upload(cache.lengths + [0] * (rows - len(cache.lengths)), new.ids.device)

    def padded(ids: Tensor, starts: Tensor, columns: int) -> Tensor:
        cache.extend_padded(starts, columns)
        _, mask = masks(config, starts[:, None], columns)
        chunk = Chunk(ids, starts[:, None], cache, mask, 0, adapter * len(ids))
        return states([chunk], taps, torch.arange(len(ids), device=ids.device))

    cache.expect(0, len(new.ids), 1)
    return Step(cache, new.ids, (taps, adapter), plain, starts, padded)
