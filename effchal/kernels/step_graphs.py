"""A decode step as a CUDA graph: the host starts the kernels of all layers by one call.

A graph does again what was recorded, at the addresses of the recording. So rows and columns are
rounded up, inputs lie in buffers of their own, and a graph runs only while the cache's memory is
where it was. Each graph is compared with the step itself before it counts. On a doubt there are
no graphs any more in this process.
"""

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from effchal.kernels.scratch import ScratchBuffers

COLUMNS = 256  # of the cache, that a graph's are a multiple of
SEEN = 8  # steps of a kind before it is recorded, so that short answers never pay for that
MOST = 32  # graphs of a cache
# Relative. A replay does again what the step did that was recorded. That step differs from the one
# without a graph by other kernels' rounding, which grows from layer to layer.
FLOAT32_OFF, REPLAY_OFF, ROUNDED_OFF = 1e-3, 0.05, 0.25
log = logging.getLogger(__name__)


class Recording(Protocol):
    """Work that was recorded; it can be done again."""

    result: Tensor  # what the work returned; `replay` overwrites it

    def replay(self) -> None: ...


# Called with the work, and a recording whose memory the new one may share: never are two replayed
# before the first one's result is read.
Record = Callable[[Callable[[], Tensor], Any], Recording]


class CudaRecording:
    """torch's CUDA graph of some work, which asks the host nothing."""

    def __init__(self, work: Callable[[], Tensor], beside: "CudaRecording | None") -> None:
        """Raises RuntimeError: the work cannot be recorded; OutOfMemoryError included."""
        own, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(own)
        with torch.cuda.stream(side):
            work()  # libraries allocate and compile what they need
            _run_without_waits(work)  # a capture that fails may leave the allocator in disorder
        own.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        pool = None if beside is None else beside._graph.pool()
        try:
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self.result = work()
        finally:
            torch.cuda.set_stream(own)  # torch leaves it on its own where the end raises

    def replay(self) -> None:
        self._graph.replay()


def _run_without_waits(work: Callable[[], Tensor]) -> None:
    """Raises RuntimeError where the host would wait for the device."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


class Cache(Protocol):
    """Keys and values of rows, in memory for more."""

    lengths: list[int]

    @property
    def capacity(self) -> tuple[int, int]:
        """Rows, and tokens of each."""

    def addresses(self) -> Hashable:
        """Where and how large all memory is."""


@dataclass(frozen=True)
class Step:
    """One token more for each row of a cache."""

    cache: Cache
    ids: Tensor  # (rows, 1) int64
    kind: Hashable  # what else its kernels depend on, sizes aside
    plain: Callable[[], Tensor]  # the step as it is without a graph: (K + 1, rows, D)
    starts: Callable[[int], Tensor]  # (R,) int64: where the rows' tokens go, and 0 beyond the rows
    # (R, 1) ids, (R,) starts, columns -> (K + 1, R, D): the step of R rows that attend to so many
    # columns. It reads nothing else that changes.
    padded: Callable[[Tensor, Tensor, int], Tensor]


class Graph:
    """A recorded step of some rows and columns, for as many rows or fewer."""

    def __init__(
        self, step: Step, rows: int, columns: int, record: Record, beside: "Graph | None"
    ) -> None:
        self._ids, self._starts = step.ids.new_zeros(rows, 1), step.ids.new_zeros(rows)
        self._fill(step)
        self._columns = columns
        shared = None if beside is None else beside._recording
        self._recording: Recording = record(
            lambda: step.padded(self._ids, self._starts, columns), shared
        )
        self.held: list[Tensor] = []  # memory that it writes to, and others may replace

    def states(self, step: Step) -> Tensor:
        """(K + 1, rows, D), in memory of their own."""
        self._fill(step)
        self._recording.replay()
        return self._recording.result[:, : len(step.ids)].clone()

    def states_anew(self, step: Step) -> Tensor:
        """(K + 1, rows, D): what was recorded, without the recording."""
        return step.padded(self._ids, self._starts, self._columns)[:, : len(step.ids)].clone()

    def _fill(self, step: Step) -> None:
        self._ids[: len(step.ids)].copy_(step.ids)  # others keep an id that a row had
        self._starts.copy_(step.starts(len(self._starts)))


@dataclass
class Table:
    """Graphs of one cache by kind and size, the latest used last."""

    addresses: Hashable
    graphs: OrderedDict[Hashable, Graph] = field(default_factory=OrderedDict)
    seen: Counter[Hashable] = field(default_factory=Counter)


class StepGraphs:
    """The graphs of a model's decode steps; its caches take theirs with them."""

    failed = False  # in this process: a capture that fails may have spoilt the next ones

    def __init__(self, record: Record, scratch: ScratchBuffers) -> None:
        """scratch: what steps write to beside their results."""
        self._record, self._scratch = record, scratch
        self._tables: WeakKeyDictionary[Cache, Table] = WeakKeyDictionary()

    def states(self, step: Step) -> Tensor:
        """(K + 1, rows, D): by a graph where there is one, else as the step is without."""
        sizes = sizes_of(step)
        if sizes is None or StepGraphs.failed:
            return step.plain()
        table, key = self._table(step.cache), (*sizes, step.kind)
        if key in table.graphs:
            table.graphs.move_to_end(key)
            return table.graphs[key].states(step)
        states = step.plain()
        table.seen[key] += 1
        if table.seen[key] < SEEN or not torch.isfinite(states).all():
            return states
        table.seen[key] = 0
        trouble = self._add(table, key, sizes, step, states)
        if trouble is None:
            return states
        StepGraphs.failed = True
        self.clear()
        if states.is_cuda:
            torch.cuda.empty_cache()
        log.warning("decoding goes on without CUDA graphs, which is slower: %s", trouble)
        return step.plain()  # keys and values once more, where a wrong graph may have written them

    def clear(self) -> None:
        """Drop all graphs: weights that they read have changed or will go."""
        self._tables.clear()

    def _table(self, cache: Cache) -> Table:
        """The cache's graphs; none where its memory is not that of their recording."""
        addresses, table = cache.addresses(), self._tables.get(cache)
        if table is None or table.addresses != addresses:
            table = self._tables[cache] = Table(addresses)
        return table

    def _add(
        self, table: Table, key: Hashable, sizes: tuple[int, int], step: Step, expected: Tensor
    ) -> str | None:
        """Record a graph and compare its first replay with the step's own states.

        Returns:
            what went wrong, if something did.
        """
        try:
            beside = next(iter(table.graphs.values()), None)
            graph = Graph(step, *sizes, self._record, beside)
            graph.held = self._scratch.buffers()
            states = graph.states(step)
            anew = graph.states_anew(step)
            off, other_off = distance(states, anew), distance(anew, expected)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            return f"{type(error).__name__}: {lines[0]}"
        is_float32 = expected.dtype is torch.float32
        if not off <= (FLOAT32_OFF if is_float32 else REPLAY_OFF):
            return f"a graph's states are {off:.2g} from those recorded, relative to their norm"
        if not other_off <= (FLOAT32_OFF if is_float32 else ROUNDED_OFF):
            return f"a graph's states are {other_off:.2g} from the step's own, relative to its norm"
        table.graphs[key] = graph
        if len(table.graphs) > MOST:
            table.graphs.popitem(last=False)
        return None


def sizes_of(step: Step) -> tuple[int, int] | None:
    """Rows and columns of a graph for a step, at most the cache's; None where there is none for it.

    Rows beyond the cache's last one are memory that nobody reads: whatever row comes there
    overwrites its first column.
    """
    rows, (most_rows, most_columns) = len(step.ids), step.cache.capacity
    total = max(step.cache.lengths) + 1
    if rows != len(step.cache.lengths) or rows > most_rows or total > most_columns:
        return None
    columns = -(-total // COLUMNS) * COLUMNS
    return min(1 << (rows - 1).bit_length(), most_rows), min(columns, most_columns)


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest norm of a state's difference (..., D), relative to the state's; NaN counts."""
    off = torch.linalg.vector_norm(found.float() - expected.float(), dim=-1)
    share = off / torch.linalg.vector_norm(expected.float(), dim=-1).clamp_min(1e-30)
    return float(share.nan_to_num(math.inf).max())
