"""The clock of a check, and what it found so far."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import ROOT

# A card of 24 GB shows 23.5 GiB, of which CUDA itself takes half a one.
CARD_GIB = 23.0


@dataclass
class Session:
    """One run of the check, or one of its processes."""

    tiny: bool  # toy sizes, to try the check itself on a CPU
    ends_at: float  # by time.monotonic(), which all processes share
    write: Callable[[dict], None]  # called with each result
    rates: dict[str, float] = field(default_factory=dict)  # of the card, once measured
    results: list[dict] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        return self.ends_at - time.monotonic()

    def tell(self, section: str, **values: Any) -> None:
        """Keep a result. `ok` says of a proof whether it holds."""
        line = {"section": section} | values
        self.results.append(line)
        self.write(line)

    def of(self, section: str, **wanted: Any) -> list[dict]:
        """Results of a section that have these values."""
        return [
            line
            for line in self.results
            if line["section"] == section
            and all(line.get(key) == value for key, value in wanted.items())
        ]

    def attempt(self, section: str, work: Callable[["Session"], None], **about: Any) -> bool:
        """Run a part of the check. What goes wrong is a result, and the next part goes on."""
        if self.left_s <= 0:
            self.tell(section, **about, skipped="no time left")
            return False
        try:
            work(self)
        except torch.OutOfMemoryError:
            self.tell(section, **about, error="out of memory")
        except Exception as error:
            self.tell(section, **about, error=described(error))
        else:
            return True
        return False


def described(error: Exception) -> str:
    """An error in one line, with the line of code of this project that met it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if Path(frame.filename).is_relative_to(ROOT) and ".venv" not in frame.filename
    ]
    where = f" ({Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno})" if own else ""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}{where}".replace(str(ROOT), ".")


def print_result(line: dict) -> None:
    print("RESULT", json.dumps(line, default=str), flush=True)
