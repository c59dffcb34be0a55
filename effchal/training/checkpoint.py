"""Training state of a run in one file: written atomically, read back exactly."""

import contextlib
import errno
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effchal.config import ConfigError
from effchal.runs import checkpoints, sync, sync_folder

log = logging.getLogger(__name__)
FORMAT = 1


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    kept: int = 2,
) -> Path:
    """Write everything that the next step depends on; then drop all but the newest `kept`.

    The best one stays, too.

    Args:
        state: plain numbers: step, spent_s, best_step, and what else the loop counts.

    Raises:
        OSError: the disk is full, for example; earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_file(folder, state["step"])
    partial = folder / f".{path.name}.{os.getpid()}"
    content = {
        "format": FORMAT,
        "state": state,
        "parameters": trainable_parameters(model),
        "optimizer": optimizer.state_dict(),
        **random_states(device_of(model)),
    }
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            sync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a failed write
        partial.unlink(missing_ok=True)
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, f"cannot write {path}: {error}") from error
    partial.replace(path)
    sync_folder(folder)
    best = state.get("best_step")
    for old in checkpoints(folder)[kept:]:
        if best is None or old != checkpoint_file(folder, best):
            old.unlink()
    return path


def checkpoint_file(folder: Path, step: int) -> Path:
    return folder / f"step_{step:07d}.pt"


def load_weights(folder: Path, step: int, model: nn.Module) -> bool:
    """Put the weights of a step into the model. Returns whether its checkpoint can be read."""
    content = _read(checkpoint_file(folder, step))
    if content is None:
        return False
    _copy_into(model, content["parameters"])
    return True


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put the newest readable checkpoint into model, optimizer and random state.

    Returns:
        Its `state`, or None if no checkpoint can be read.

    Raises:
        ConfigError: a newer or an earlier version of this package wrote it.
    """
    for path in checkpoints(folder):
        content = _read(path)
        if content is None:
            log.warning("%s cannot be read; trying the one before", path)
            with contextlib.suppress(FileNotFoundError):  # another process of the run did it
                path.rename(path.with_suffix(".unreadable"))  # or it would count among those kept
            continue
        found = content.get("format", 0)
        if found != FORMAT:
            raise ConfigError(
                f"{path} has format {found}, and this version reads {FORMAT}; go on with the "
                "version that began the run, or start anew"
            )
        _copy_into(model, content["parameters"])
        optimizer.load_state_dict(content["optimizer"])
        set_random_states(content, device_of(model))
        log.info("resumed from %s", path)
        return content["state"]
    return None


def random_states(device: torch.device) -> dict[str, Any]:
    """States of the random generators that training draws from: the CPU's and its card's."""
    on_card = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return {"rng": torch.get_rng_state(), "rng_cuda": on_card}


def set_random_states(content: dict[str, Any], device: torch.device) -> None:
    """Set the states that a checkpoint holds, on whichever card training goes on."""
    torch.set_rng_state(content["rng"])
    if content["rng_cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(content["rng_cuda"][0], device)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None


def _copy_into(model: nn.Module, parameters: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            parameter.copy_(parameters[name])


def trainable_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
