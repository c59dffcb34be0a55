"""Memory of keys and values: what a server may come to need, and what is free."""

import logging

import psutil
import torch

from effchal.config import ServeConfig
from effchal.decoding.engine import Engine

GIB = 1 << 30
log = logging.getLogger(__name__)


def warn_if_memory_is_short(engine: Engine, cfg: ServeConfig, row_bytes: int) -> None:
    """Log a warning if the caches may outgrow the memory that is free now.

    Keys and values are allocated on demand, so the shortage would show only under load. A
    container's own limit is not looked up, and mapped weights count as free.
    """
    rows = min(cfg.cache_gib, cfg.max_rows * engine.max_positions * row_bytes / GIB)
    needed, device = rows + cfg.prefix_gib, engine.model.device
    on_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_cuda else psutil.virtual_memory().available
    if needed > free / GIB:
        log.warning(
            "keys and values may take %.1f GiB (serve.cache_gib, serve.prefix_gib) and %.1f GiB "
            "are left on %s: with many rows the server may run out of memory; give less",
            needed,
            free / GIB,
            device,
        )
