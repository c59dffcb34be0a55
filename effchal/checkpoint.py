"""Training state of a run in one file: written atomically, read back exactly."""

import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)
KEPT = 2  # a crash while the newest is written leaves the one before


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    """Write everything that the next step depends on; afterwards drop all but the newest KEPT.

    Args:
        state: plain numbers: step, spent_s, and what else the loop counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{state['step']:07d}.pt"
    parts = folder / f".{path.name}.{os.getpid()}"
    content = {
        "state": state,
        "parameters": trainable_parameters(model),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with parts.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    parts.replace(path)  # a reader sees the whole file or none
    sync_folder(folder)
    for old in checkpoints(folder)[KEPT:]:
        old.unlink()
    return path


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put the newest readable checkpoint into model, optimizer and random state; its `state`, or None."""
    for path in checkpoints(folder):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            log.warning("%s cannot be read (%s); trying the one before", path, type(error).__name__)
            path.rename(path.with_suffix(".unreadable"))  # or it would be counted among the KEPT
            continue
        with torch.no_grad():
            for name, parameter in trainable_parameters(model).items():
                parameter.copy_(content["parameters"][name])
        optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["rng"])
        if content["rng_cuda"]:
            torch.cuda.set_rng_state_all(content["rng_cuda"])
        log.info("resumed from %s", path)
        return content["state"]
    return None


def trainable_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoint files, newest first."""
    return sorted((p for p in folder.glob("step_*.pt") if re.fullmatch(r"step_\d+\.pt", p.name)), reverse=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
