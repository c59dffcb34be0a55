"""Parts of the check that run in a process of their own, so that each finds the card empty."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpu_check.session import CARD_GIB, ROOT, Session, print_result

SCRIPT = ROOT / "benchmarks" / "check_gpu.py"


@dataclass(frozen=True)
class Worker:
    """A function of a module, called with the session and each of some bases."""

    section: str  # of its results
    module: str
    function: str
    bases: tuple[str, ...]
    needs: tuple[str, ...] = ()  # packages
    limit_s: float = 150.0
    on_card_only: bool = False
    system: str = "effchal"

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


class Process:
    """A worker that was started; its results come to the session once it is awaited."""

    def __init__(self, session: Session, worker: Worker) -> None:
        self.worker = worker
        limit_s = max(10.0, min(worker.limit_s, session.left_s))
        job = {
            "module": worker.module,
            "function": worker.function,
            "bases": worker.bases,
            "section": worker.section,
            "system": worker.system,
            "tiny": session.tiny,
            "ends_at": time.monotonic() + limit_s,
            "rates": session.rates,
        }
        hide = {"CUDA_VISIBLE_DEVICES": ""} if worker.section == "plan" else {}
        self._ends_at = job["ends_at"]
        self._out, self._error = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--worker", json.dumps(job)],
            stdout=self._out,
            stderr=self._error,
            env=os.environ | hide,
            cwd=ROOT,
        )

    def collect(self, session: Session) -> None:
        """Wait for its end or its limit, and keep what it told."""
        about = {"system": self.worker.system, "bases": list(self.worker.bases)}
        try:
            code = self._process.wait(max(1.0, self._ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            session.tell(self.worker.section, **about, error="stopped: no time left")
            code = 0
        self._out.seek(0)
        for line in self._out:
            if line.startswith("RESULT "):
                found = json.loads(line.removeprefix("RESULT "))
                session.tell(found.pop("section"), **found)
        if code:
            self._error.seek(0)
            last = [line.strip() for line in self._error if line.strip()][-1:]
            text = f"the process ended with {code}: {' '.join(last)[:300]}"
            session.tell(self.worker.section, **about, error=text.replace(str(ROOT), "."))
        self._out.close()
        self._error.close()


def run_worker(session: Session, worker: Worker) -> None:
    about = {"system": worker.system, "bases": list(worker.bases)}
    if worker.missing:
        text = f"not installed: {', '.join(worker.missing)}"
        session.tell(worker.section, **about, skipped=text)
    elif worker.on_card_only and not has_card():
        session.tell(worker.section, **about, skipped="runs on a card only")
    elif session.left_s < 20:
        session.tell(worker.section, **about, skipped="no time left")
    else:
        Process(session, worker).collect(session)


def has_card() -> bool:
    import torch

    return torch.cuda.is_available()


def work(text: str) -> None:
    """What `check_gpu.py --worker JOB` does."""
    from gpu_check.measure import limit_memory

    job = json.loads(text)
    session = Session(job["tiny"], job["ends_at"], print_result, job["rates"])
    if job["section"] != "plan":
        limit_memory(CARD_GIB)
    module = importlib.import_module(f"gpu_check.{job['module']}")
    function: Callable[[Session, str], None] = getattr(module, job["function"])
    for base in job["bases"]:
        session.attempt(
            job["section"], lambda s, b=base: function(s, b), system=job["system"], base=base
        )


def folder_of(card: str) -> Path:
    """Where results of a card are kept."""
    name = "-".join("".join(c if c.isalnum() else " " for c in card.lower()).split())
    return ROOT / "experiments" / "gpu" / name
