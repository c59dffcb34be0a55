"""What earlier probes and runs of the same kind took, kept on this machine for the next plan."""

import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from effchal.config import Config
from effchal.runs import append_json_line, cache_folder, read_json_lines

log = logging.getLogger(__name__)
NEWEST = 5  # records of a kind that a plan uses


@dataclass
class Record:
    source: str  # "probe" or "run"
    kind: dict[str, Any]
    tokens_per_s: float  # over its training steps, optimizer and data included
    spread: float  # relative standard error of that speed's mean
    start_s: float  # from the start of the process to the first step
    validation_tokens_per_s: float | None
    save_s: float  # checkpoint and bundle, once
    memory: int  # bytes at the peak, as memory_used counts them
    memory_planned: int | None  # bytes of the same, as computed
    memory_limit: int | None = None  # bytes that the run went through within; None: of a probe
    at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))


def records_file() -> Path:
    return cache_folder() / "records.jsonl"


def kind_of(cfg: Config, device_name: str, model: str) -> dict[str, Any]:
    """What speed and memory of a run depend on, except its data.

    Args:
        model: class and size, which do not depend on the model's folder.
    """
    train, lora = cfg.train, cfg.lora
    targets = lora and lora.target_modules
    if isinstance(targets, list):
        targets = sorted(targets)
    adapter = lora and [lora.r, lora.dropout, lora.use_dora, targets]
    several = {"gpus": train.gpus, "parallel": train.parallel.value} if train.gpus > 1 else {}
    return several | {
        "device": device_name,
        "model": model,
        "torch": torch.__version__,
        "dtype": cfg.model.dtype.value,
        "quantization": cfg.model.quantization and cfg.model.quantization.value,
        "double_quant": cfg.model.double_quant,
        "max_seq_len": cfg.model.max_seq_len,
        "lora": adapter,
        "examples_per_step": train.examples_per_step,
        "micro_batch_size": train.micro_batch_size,
        "packing": train.packing,
        "optimizer": train.optimizer.value,
        "activation_checkpointing": train.activation_checkpointing.value,
        "compile": train.compile,
        "compile_elementwise": train.compile_elementwise,
    }


def keep_record(record: Record) -> None:
    """Append the record. If the folder cannot be written, the next plan lacks it, nothing else."""
    path = records_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_json_line(path, asdict(record))
    except OSError as error:
        log.warning("%s cannot be written (%s); the next plan lacks this run", path, error)


def records_of(kind: dict[str, Any]) -> list[Record]:
    """Records of this kind, newest first: of runs if there are any, else of probes."""
    found = []
    try:
        lines = read_json_lines(records_file())
    except OSError:
        return []
    for line in lines:
        try:
            record = Record(**line)
        except TypeError:
            continue  # another version's
        if record.kind == kind:
            found.append(record)
    runs = [record for record in found if record.source == "run"]
    return (runs or found)[::-1][:NEWEST]
