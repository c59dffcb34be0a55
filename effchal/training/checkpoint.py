"""Training state of a run in one file: written atomically, read back exactly."""

import errno
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)
BEST = "best.pt"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    kept: int = 2,
) -> Path:
    """Write everything that the next step depends on; afterwards drop all but the newest `kept`, and the best.

    Args:
        state: plain numbers: step, spent_s, and what else the loop counts.

    Raises:
        OSError: the disk is full, for one; the checkpoints that were there still are.
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
    try:
        with parts.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's word for a write that failed
        parts.unlink(missing_ok=True)
        raise OSError(
            getattr(error, "errno", None) or errno.EIO, f"cannot write {path}: {error}"
        ) from error
    parts.replace(path)  # a reader sees the whole file or none
    sync_folder(folder)
    for old in checkpoints(folder)[kept:]:
        old.unlink()
    return path


def mark_best(path: Path) -> None:
    """Keep this checkpoint as the best one, whatever becomes of its own name."""
    link = path.with_name(f".{BEST}")
    link.unlink(missing_ok=True)
    os.link(path, link)
    link.replace(path.with_name(BEST))


def load_best(folder: Path, model: nn.Module) -> int | None:
    """Put the best checkpoint's weights into the model; its step, or None where there is none."""
    content = _read(folder / BEST)
    if content is None:
        return None
    _put(content["parameters"], model)
    return content["state"]["step"]


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put the newest readable checkpoint into model, optimizer and random state; its `state`, or None."""
    for path in checkpoints(folder):
        content = _read(path)
        if content is None:
            log.warning("%s cannot be read; trying the one before", path)
            path.rename(path.with_suffix(".unreadable"))  # or it would be counted among those kept
            continue
        _put(content["parameters"], model)
        optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["rng"])
        if content["rng_cuda"]:
            torch.cuda.set_rng_state_all(content["rng_cuda"])
        log.info("resumed from %s", path)
        return content["state"]
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None


def _put(parameters: dict[str, torch.Tensor], model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            parameter.copy_(parameters[name])


def trainable_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoint files, newest first."""
    return sorted(
        (p for p in folder.glob("step_*.pt") if re.fullmatch(r"step_\d+\.pt", p.name)), reverse=True
    )


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
