"""How far HELM is: answers that our server's log counts, and runs that are complete."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from effchal.evaluation.helm.processes import SERVER_LOG
from effchal.evaluation.helm.results import HelmRun, run_folder
from effchal.tracking.terminal import progress
from effchal.tracking.words import duration

LOOK_S = 1.0
ANSWERED = '"path": "/process"'  # in a line of the server's access log
LAST_FILE = "per_instance_stats.json"  # that HELM writes of a run


@contextlib.contextmanager
def watched(run_dir: Path, runs: list[HelmRun], ours: bool) -> Iterator[None]:
    """Tell how far HELM is while the block runs.

    Args:
        runs: those that HELM has to do.
        ours: whether the server is, and so its log.
    """
    began, over = time.monotonic(), threading.Event()
    log_file = run_dir / SERVER_LOG
    before = log_file.stat().st_size if log_file.is_file() else 0  # of an earlier process, too

    def complete() -> int:
        return sum((run_folder(run_dir, each.name) / LAST_FILE).is_file() for each in runs)

    def estimate() -> str:
        done = complete()
        told = f"{done} of {len(runs)} runs done"
        if not 0 < done < len(runs):
            return told
        return f"{told}, {duration((time.monotonic() - began) / done * (len(runs) - done))} left"

    with progress("HELM asks", unit="requests" if ours else "", ends=estimate) as advance:

        def look() -> None:
            answered, position = 0, before
            while not over.wait(LOOK_S):
                with contextlib.suppress(OSError), log_file.open("rb") as log:
                    log.seek(position)
                    whole, _, _ = log.read().rpartition(b"\n")
                    position += len(whole)
                    answered += whole.count(ANSWERED.encode())
                advance(answered)

        looker = threading.Thread(target=look, name="watching HELM", daemon=True)
        if ours:
            looker.start()
        try:
            yield
        finally:
            over.set()
            if ours:
                looker.join()
