"""Parts of the check that run in a process of their own, so that each finds the card empty."""

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_check.session import CARD_GIB, ROOT, Session, print_result

SCRIPT = ROOT / "benchmarks" / "check_gpu.py"
LEAST_S = 20.0  # left, to start another process


@dataclass(frozen=True)
class Part:
    """A function of a module, called with the session and the format of the base weights."""

    section: str  # of its results
    module: str
    function: str
    base: str
    system: str = "effchal"
    needs: tuple[str, ...] = ()  # packages
    on_card_only: bool = False
    limit_s: float = 150.0

    @property
    def about(self) -> dict[str, str]:
        return {"system": self.system, "base": self.base}

    def hindrance(self) -> str | None:
        """Why it cannot run here."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            return f"not installed: {', '.join(missing)}"
        return "runs on a card only" if self.on_card_only and not has_card() else None


class Process:
    """Some parts in a process that was started; `collect` brings their results."""

    def __init__(self, session: Session, parts: Sequence[Part], hide_card: bool = False) -> None:
        self._parts = parts
        limit_s = min(sum(part.limit_s for part in parts), session.left_s)
        self._ends_at = time.monotonic() + limit_s
        job = {
            "parts": [asdict(part) for part in parts],
            "tiny": session.tiny,
            "ends_at": self._ends_at,
            "rates": session.rates,
        }
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._error = (Path(self._folder.name, name) for name in ("out", "error"))
        with self._out.open("w") as out, self._error.open("w") as error:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), "--worker", json.dumps(job)],
                stdout=out,
                stderr=error,
                env=os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if hide_card else {}),
                cwd=ROOT,
            )

    def collect(self, session: Session) -> None:
        """Wait for its end or its limit, and keep what it told."""
        trouble = None
        try:
            code = self._process.wait(max(0.0, self._ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            trouble = "stopped: its time was over"
        else:
            trouble = f"ended with exit code {code}: {self._last_words()}" if code else None
        for line in self._out.read_text().splitlines():
            if line.startswith("RESULT "):
                found = json.loads(line.removeprefix("RESULT "))
                session.tell(found.pop("section"), **found)
        if trouble:
            session.tell(self._parts[0].section, **self._parts[0].about, error=trouble)
        self._folder.cleanup()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._error.read_text().splitlines() if line.strip()]
        return " ".join(lines[-1:])[:300].replace(str(ROOT), ".")


def run_parts(session: Session, parts: Sequence[Part]) -> None:
    """Run parts in one process, and wait for it. What cannot run is told."""
    able = []
    for part in parts:
        hindrance = part.hindrance() or ("no time left" if session.left_s < LEAST_S else None)
        if hindrance:
            session.tell(part.section, **part.about, skipped=hindrance)
        else:
            able.append(part)
    if able:
        Process(session, able).collect(session)


def has_card() -> bool:
    import torch

    return torch.cuda.is_available()


def quiet() -> None:
    """Leave out progress bars and warnings of libraries."""
    from effchal.model.tokenizer import quiet_libraries

    quiet_libraries()
    warnings.filterwarnings("ignore")
    logging.getLogger("effchal").setLevel(logging.ERROR)


def work(text: str) -> None:
    """What `check_gpu.py --worker JOB` does."""
    from gpu_check.measure import limit_memory

    job = json.loads(text)
    if any("unsloth" in part["needs"] for part in job["parts"]):
        with contextlib.suppress(Exception):  # the part tells what is wrong
            importlib.import_module("unsloth")  # before transformers, which it changes
    quiet()
    session = Session(job["tiny"], job["ends_at"], print_result, job["rates"])
    limit_memory(CARD_GIB)
    for part in [Part(**each) for each in job["parts"]]:
        module = importlib.import_module(f"gpu_check.{part.module}")
        function: Callable[[Session, str], None] = getattr(module, part.function)
        run = lambda s, f=function, base=part.base: f(s, base)  # noqa: E731
        session.attempt(part.section, run, **part.about)
