"""Memory of keys and values: what a server may come to need, and what is free."""

import logging
import math
from collections.abc import Collection

import torch

from effchal.config import ServeConfig
from effchal.decoding.engine import Engine
from effchal.model.host_memory import free_host_memory
from effchal.serving.queued import QueuedPrompt

GIB = 1 << 30
log = logging.getLogger(__name__)


class CacheRoom:
    """The bounds of the rows' keys and values: serve.max_rows and serve.cache_gib."""

    def __init__(self, engine: Engine, cfg: ServeConfig) -> None:
        self._engine, self._cfg = engine, cfg
        self.row_bytes = engine.model.bytes_per_token
        warn_if_memory_is_short(engine, cfg, self.row_bytes)

    @property
    def tokens(self) -> int:
        """Capacity in tokens: rows times the longest row."""
        return int(self._cfg.cache_gib * GIB / self.row_bytes)

    def fits(
        self, prompt: QueuedPrompt, running: Collection[QueuedPrompt], reading: int = 0
    ) -> bool:
        """Whether a prompt's rows may run beside others; alone it always may.

        Args:
            reading: tokens of those being read, which are in caches of their own until they join.
        """
        rows, tokens = size_of([*running, prompt])
        within = rows <= self._cfg.max_rows and rows * tokens + reading <= self.tokens
        return within or not running

    def reserve(
        self, prompt: QueuedPrompt, running: Collection[QueuedPrompt], reading: int = 0
    ) -> None:
        """Allocate what all rows may come to need; shrink the cache only to stay in bounds.

        Args:
            reading: as in `fits`.

        Raises:
            RuntimeError: no memory for it. The cache is as before.
        """
        rows, tokens = size_of([*running, prompt])
        had_rows, had_tokens = self._engine.cache.capacity
        size = max(rows, had_rows), max(tokens, had_tokens)
        if math.prod(size) + reading > self.tokens:
            size = rows, tokens
        if size == (had_rows, had_tokens):
            return
        try:
            self._engine.cache.resize(*size)
        except Exception:
            self._engine.cache.resize(had_rows, had_tokens)  # some layers have the new size by now
            raise


def size_of(prompts: Collection[QueuedPrompt]) -> tuple[int, int]:
    """(rows, tokens of the longest row) that the cache needs for these prompts."""
    return sum(each.rows for each in prompts), max(each.max_tokens for each in prompts)


def warn_if_memory_is_short(engine: Engine, cfg: ServeConfig, row_bytes: int) -> None:
    """Log a warning if the caches may outgrow the memory that is free now.

    Keys and values are allocated on demand, so the shortage would show only under load. Mapped
    weights count as free.
    """
    rows = min(cfg.cache_gib, cfg.max_rows * engine.max_positions * row_bytes / GIB)
    needed, device = rows + cfg.prefix_gib, engine.model.device
    on_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_cuda else free_host_memory()
    if needed > free / GIB:
        log.warning(
            "keys and values may take %.1f GiB (serve.cache_gib, serve.prefix_gib) and %.1f GiB "
            "are left on %s: with many rows the server may run out of memory; give less",
            needed,
            free / GIB,
            device,
        )
