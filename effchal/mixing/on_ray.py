"""Work on batches over a Ray cluster, by Ray Data: the same work, its results in the same order.

Only names of files and rows travel to the nodes, which read the files themselves. An error of the
work is a result as well, and raised here once all results before it are taken. So the first error
in the order of the rows is the one that is told, as on one machine.
"""

import contextlib
import logging
import os
import pickle
import platform
import warnings
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from effchal import __version__
from effchal.config import ConfigError
from effchal.mixing.parallel import Work
from effchal.mixing.ray_cluster import connect, disconnect, environment
from effchal.runs import python_path
from effchal.tracking.terminal import progress

MOST_PER_TASK = 8  # batches; a task that a lost node had is done again
TASKS_PER_CORE = 4  # at least, so that no core waits long for the last one
RETRIES = 3  # of a task whose process or node is lost; without it, a batch too large never ends
BLOCK_BYTES = 2**24  # of results; the driver holds a few blocks at a time
REMEDY = "all nodes must see the sources and the cache under the same paths"
_works: dict[str, Work] = {}  # of this process, by their keys
_connected_here = False


def run_on_ray(work: Work, batches: list[Any]) -> Iterator[Any]:
    """The results of each batch, in order; a work that gives an iterator has several for each.

    Raises:
        ConfigError: as the work raises it, a file that a node lacks, or Ray cannot be used.
    """
    global _connected_here
    with progress("connecting to Ray"):
        _connected_here = connect() or _connected_here
        import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it tells how it executes
    try:
        # Closed here, for an executor that outlives the connection would make another one.
        with contextlib.closing(_results(ray, work, batches)) as rows:
            yield from _in_order(rows, len(batches))
    except ray.exceptions.RayError as error:
        raise ConfigError(f"Ray could not do the work: {_reason(error)}") from error


def release() -> None:
    """End the connection that run_on_ray made, and the Ray that it started, if it did."""
    global _connected_here
    if _connected_here:
        disconnect()
    _connected_here = False


def _results(ray: Any, work: Work, batches: list[Any]) -> Generator[dict[str, Any], None, None]:
    """Rows of Stage's tables."""
    cores = ray.cluster_resources().get("CPU", 0)
    if cores < 1:
        raise ConfigError("the Ray cluster has no CPU: start its nodes with --num-cpus")
    per_task = max(1, min(MOST_PER_TASK, int(len(batches) / (TASKS_PER_CORE * cores))))
    items = [
        {"number": number, "batch": pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)}
        for number, batch in enumerate(batches)
    ]
    packed = ray.put(pickle.dumps(work, pickle.HIGHEST_PROTOCOL))  # once, not with each task
    stage = Stage(packed.hex(), partial(ray.get, packed), os.getcwd())
    with ray.data.DataContext.current(_context(ray)):
        rows = ray.data.from_items(items, override_num_blocks=-(-len(items) // per_task))
    with warnings.catch_warnings():  # Ray 2.64 takes max_retries away, so pyproject.toml ends there
        warnings.simplefilter("ignore", DeprecationWarning)
        rows = rows.map_batches(
            stage,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
            max_retries=RETRIES,
            runtime_env={"env_vars": _environment()},
        )
    for table in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        for start in range(table.num_rows):  # not all at once, for that is a copy of the block
            yield table.slice(start, 1).to_pylist()[0]


def _environment() -> dict[str, str]:
    """As for a process of this machine: this code is found, also where it is not installed."""
    return environment() | {"PYTHONPATH": python_path(), "TOKENIZERS_PARALLELISM": "false"}


def _context(ray: Any) -> Any:
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _in_order(rows: Iterator[dict[str, Any]], count: int) -> Iterator[Any]:
    """The results themselves; an error is raised.

    Raises:
        RuntimeError: a result is missing or comes twice, which is a fault of ours or of Ray's.
    """
    number = part = 0
    for row in rows:
        if (row["number"], row["part"]) != (number, part):
            raise RuntimeError(f"result {number}.{part} of Ray is missing")
        if row["result"] is not None:
            result = pickle.loads(row["result"])
            if isinstance(result, BaseException):
                raise result
            yield result
        number, part = (number + 1, 0) if row["last"] else (number, part + 1)
    if number != count:
        raise RuntimeError(f"result {number}.{part} of Ray is missing")


class Stage:
    """What Ray Data does with each block of batches: a task, so any node can do it again."""

    def __init__(self, key: str, packed: Callable[[], bytes], folder: str) -> None:
        """A stage for one work.

        Args:
            key: names the work.
            packed: gets its pickle.
            folder: relative paths start from it.
        """
        self._key, self._packed, self._folder = key, packed, folder
        self._version = __version__

    def __call__(self, batches: pa.Table) -> Iterator[pa.Table]:
        for row in batches.to_pylist():
            number, part = row["number"], 0
            try:
                for result in self._results(pickle.loads(row["batch"])):
                    yield _table(number, part, result, last=False)
                    part += 1
            except Exception as error:  # whoever takes the results raises it
                yield _table(number, part, error, last=True)
                return
            yield _table(number, part, None, last=True)

    def _results(self, batch: Any) -> Iterator[Any]:
        work = self._work()
        if not batch.path.is_file():
            place = Path(self._folder, batch.path)
            raise ConfigError(f"no file {place} on the Ray node {platform.node()}; {REMEDY}")
        results = work(batch)
        if isinstance(results, Iterator):
            yield from results
        else:
            yield results

    def _work(self) -> Work:
        """The work of this process, which starts with its first batch."""
        if self._key not in _works:
            if self._version != __version__:
                raise ConfigError(
                    f"the Ray node {platform.node()} has effchal {__version__}, and this is "
                    f"{self._version}: install the same one"
                )
            from effchal.model.tokenizer import hide_torch

            hide_torch()
            if Path(self._folder).is_dir():  # else all paths must be absolute
                os.chdir(self._folder)
            _works.clear()
            _works[self._key] = pickle.loads(self._packed())
        return _works[self._key]


def _table(number: int, part: int, result: Any, last: bool) -> pa.Table:
    packed = None if result is None else pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    return pa.table(
        {
            "number": [number],
            "part": [part],
            "last": [last],
            "result": pa.array([packed], pa.large_binary()),
        }
    )


def _reason(error: BaseException) -> str:
    """One line of Ray's many."""
    text = str(error)
    if "No module named 'effchal'" in text:
        return "a node lacks effchal; install the same version on all of them"
    if type(error).__name__ in ("WorkerCrashedError", "OutOfMemoryError"):
        return f"a process ended {RETRIES + 1} times at one task; was it killed for memory?"
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
