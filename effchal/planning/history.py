"""What earlier probes and runs of the same kind took, kept on this machine for the next plan."""

import json
import logging
import os
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from effchal.config import Config
from effchal.tracking import peak_memory_gib

log = logging.getLogger(__name__)
CONTEXT = 0.6 * 2**30  # bytes: CUDA itself and its libraries' workspaces
NEWEST = 5  # records of a kind that a plan looks at


@dataclass
class Record:
    source: str  # "probe" or "run"
    kind: dict[str, Any]
    tokens_per_s: float  # over its training steps, optimizer and data included
    spread: float  # of that: relative standard error of its mean
    start_s: float  # from the start of the process to the first step
    validation_tokens_per_s: float | None
    save_s: float  # checkpoint and bundle, once
    memory: int  # bytes at the peak, as memory_used counts them
    memory_planned: int | None
    at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))


class Pace:
    """Tokens a second over steps; the first one, slow with all that happens once, is left out."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, float]] = []

    def add(self, tokens: int, seconds: float) -> None:
        self._steps.append((tokens, seconds))

    @property
    def steps(self) -> int:
        return len(self._steps)

    @property
    def tokens_per_s(self) -> float | None:
        """None after fewer than two steps."""
        timed = self._steps[1:]
        return (
            sum(tokens for tokens, _ in timed) / sum(seconds for _, seconds in timed)
            if timed
            else None
        )

    @property
    def spread(self) -> float:
        """Standard error of the mean speed, relative."""
        speeds = [tokens / seconds for tokens, seconds in self._steps[1:]]
        return (
            statistics.stdev(speeds) / len(speeds) ** 0.5 / statistics.mean(speeds)
            if len(speeds) > 1
            else 0.0
        )


def memory_used(device: torch.device) -> int:
    """Bytes at the peak so far, all that a plan counts: the GPU's allocator and context, or the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) + round(CONTEXT)
    return round(peak_memory_gib(device) * 2**30)


def records_file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "effchal" / "records.jsonl"


def kind_of(cfg: Config, device_name: str, model: str) -> dict[str, Any]:
    """What the speed and the memory of a run depend on, but for its data.

    Args:
        model: its class and size, which tell it from others whatever folder it lies in.
    """
    train, lora = cfg.train, cfg.lora
    return {
        "device": device_name,
        "model": model,
        "torch": torch.__version__,
        "dtype": cfg.model.dtype.value,
        "quantization": cfg.model.quantization and cfg.model.quantization.value,
        "double_quant": cfg.model.double_quant,
        "attention": cfg.model.attention.value,
        "max_seq_len": cfg.model.max_seq_len,
        "lora": None
        if lora is None
        else [lora.r, lora.dropout, lora.use_dora, sorted(lora.target_modules)],
        "examples_per_step": train.examples_per_step,
        "micro_batch_size": train.micro_batch_size,
        "packing": train.packing,
        "optimizer": train.optimizer.value,
        "activation_checkpointing": train.activation_checkpointing.value,
        "compile": train.compile,
    }


def keep(record: Record) -> None:
    """Append; a folder that cannot be written costs the next plan its memory, nothing else."""
    try:
        records_file().parent.mkdir(parents=True, exist_ok=True)
        with records_file().open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
    except OSError as error:
        log.warning(
            "%s cannot be written (%s); the next plan will not know of this run",
            records_file(),
            error,
        )


def records_of(kind: dict[str, Any]) -> list[Record]:
    """Of this kind, newest first: runs where there are any, else probes; at most NEWEST."""
    found = []
    try:
        lines = records_file().read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError):
            continue  # cut off, or another version's
        if record.kind == kind:
            found.append(record)
    runs = [record for record in found if record.source == "run"]
    return (runs or found)[::-1][:NEWEST]
