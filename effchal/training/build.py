"""What a training run is made of, and its state: built from the config, taken up from a checkpoint."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effchal.config import Config, ConfigError
from effchal.decoding.layers import contrast_of
from effchal.mixing.packing import EncodedExample, MicroBatch, TrainingOrder
from effchal.mixing.prepare import pack_for, prepare_data
from effchal.mixing.sources import DataError
from effchal.model.device import (
    limit_gpu_memory,
    multiplies_bfloat16,
    pick_device,
    pick_dtype,
)
from effchal.model.load import (
    add_adapter,
    base_model_fingerprint,
    load_base_model,
    load_tokenizer,
    model_shape,
)
from effchal.planning.fit import Plan
from effchal.planning.history import Pace
from effchal.planning.outcome import plan_run
from effchal.planning.workload import KnownData
from effchal.prompts import PromptEncoder
from effchal.tracking import device_name
from effchal.training.checkpoint import checkpoints, load_checkpoint, trainable_parameters
from effchal.training.layers import prepare_training
from effchal.training.step import make_optimizer

log = logging.getLogger("effchal.train")


@dataclass
class RunState:
    """What the loop counts; all of it is in the checkpoint."""

    step: int = 0
    tokens: int = 0
    target_tokens: int = 0
    train_loss: float | None = None  # of the last step
    validation_loss_before: float | None = None
    validation_loss: float | None = None  # the latest
    validation_step: int | None = None  # when it was taken
    best_loss: float | None = None  # the lowest validation loss of a checkpoint, and when
    best_step: int | None = None
    lr: float | None = None  # of the last step
    data_sha256: str = ""  # of all examples in their order
    base_model: str | None = None  # fingerprint of its files
    made_with: str = ""  # library and device, which the last bits depend on
    costs: dict[str, float] = field(
        default_factory=dict
    )  # seconds that checkpoint, bundle and validation took
    first_step_s: float | None = None  # spent when the first step began
    spent_s: float = 0.0


@dataclass
class Job:
    """What a run trains with; none of it changes but model and optimizer."""

    cfg: Config
    run_dir: Path
    device: torch.device
    tokenizer: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: TrainingOrder
    validation: list[MicroBatch]
    steps: int  # planned
    data_sha256: str
    plan: Plan | None = None
    pace: Pace = field(default_factory=Pace)


def prepare(cfg: Config, run_dir: Path) -> Job:
    """Everything that can be wrong with the input comes up here, before the first step."""
    device = pick_device()
    limit_gpu_memory(cfg.budget.memory_gib, device)
    tokenizer = load_tokenizer(cfg.model)
    shape = model_shape(cfg.model)
    contrast_of(
        cfg.decoding, shape.num_layers, shape.tied
    )  # the bundle's decoding, checked before a day is spent
    data = prepare_data(cfg, PromptEncoder(tokenizer, cfg.prompt), run_dir)
    resumed = bool(checkpoints(run_dir / "checkpoint"))
    plan = plan_run(cfg, device, KnownData(*data[:2]), run_dir, resumed)
    job = build(cfg, run_dir, device, tokenizer, *data)
    job.plan = plan
    return job


def build(
    cfg: Config,
    run_dir: Path,
    device: torch.device,
    tokenizer: Any,
    order: TrainingOrder,
    validation: list[EncodedExample],
    data_sha256: str,
) -> Job:
    """Model, adapter and optimizer beside data that is there already."""
    model = add_adapter(load_base_model(cfg.model, device), cfg.lora, cfg.train.seed)
    fused = prepare_training(model, cfg.train.activation_checkpointing, cfg.train.compile)
    dtype = pick_dtype(cfg.model.dtype, device)
    if not fused and dtype is torch.bfloat16 and not multiplies_bfloat16(device):
        log.warning(
            "model.dtype=bfloat16: no arithmetic for it on this CPU; unfused layers are a hundred times slower"
        )
        log.warning(
            "than with model.dtype=float32 (lora.dropout=0, no DoRA, no train.compile: fused, and as fast)"
        )
    steps = min(order.steps, cfg.train.max_steps or order.steps)
    if cfg.train.warmup_steps > steps / 5:
        log.warning(
            "train.warmup_steps=%d is more than a fifth of the %d steps",
            cfg.train.warmup_steps,
            steps,
        )
    trainable = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    layers = "fused" if fused else "the library's"
    log.info("%s on %s | layers: %s", cfg.model.name, device, layers)
    log.info("%s adapter parameters | %d steps", f"{trainable:,}", steps)
    micro_batches = [micro_batch.to(device) for micro_batch in pack_for(cfg, validation)]
    optimizer = make_optimizer(model, cfg.train)
    return Job(
        cfg, run_dir, device, tokenizer, model, optimizer, order, micro_batches, steps, data_sha256
    )


def restore(job: Job) -> RunState:
    """The state of the newest checkpoint, put into model and optimizer; a fresh one where there is none.

    Raises:
        ConfigError: checkpoints that cannot be read, or that were trained on other data.
    """
    folder = job.run_dir / "checkpoint"
    there = checkpoints(folder)
    saved = load_checkpoint(folder, job.model, job.optimizer)
    if saved is None and there:
        raise ConfigError(f"no checkpoint in {folder} can be read; start anew in another folder")
    here = {
        "data_sha256": job.data_sha256,
        "base_model": base_model_fingerprint(job.cfg.model),
        "made_with": f"torch {torch.__version__} on {device_name(job.device)}",
    }
    state = RunState(**(saved or here))
    if state.data_sha256 != job.data_sha256:
        raise DataError(
            f"the data mix is not the one that {job.run_dir} was trained on; bring its files back"
        )
    if state.base_model not in (
        None,
        here["base_model"],
    ):  # None: a hub model, held by its revision
        raise ConfigError(
            f"model.name={job.cfg.model.name} holds another model (fingerprint {here['base_model']}) than "
            f"{job.run_dir} was trained on ({state.base_model}); bring its files back"
        )
    if state.made_with != here["made_with"]:
        log.warning(
            "trained so far by %s, now by %s: the last bits may differ",
            state.made_with,
            here["made_with"],
        )
    return state
