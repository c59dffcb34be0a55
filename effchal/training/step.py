"""The training step: loss over target tokens, one update, and what may stop it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from effchal.config import TrainConfig
from effchal.config.choices import Optimizer
from effchal.kernels.attention import packed_hidden_states
from effchal.kernels.loss import chunked_loss
from effchal.mixing.packing import MicroBatch
from effchal.model.load import evaluation_mode
from effchal.model.structure import head


class NonFiniteError(FloatingPointError):
    """Loss or gradient is no number; the weights are those of before the step."""


@dataclass
class StepStats:
    loss: float  # mean nats per target token
    grad_norm: float  # before clipping
    tokens: int  # pad left out
    target_tokens: int


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[MicroBatch],
    max_grad_norm: float,
    must_end: Callable[[int], bool] | None = None,
) -> StepStats:
    """One optimizer step. Gradients equal those of one big batch of all micro-batches.

    Args:
        must_end: asked after each micro-batch, with the number of those left; True leaves them out, and the update is
            that of a batch of those that were done.

    Raises:
        NonFiniteError: no update was made; it names the examples.
    """
    # Divide by target tokens of the whole step, not per micro-batch: answers differ in
    # length, and a mean of means would weigh short answers more.
    target_tokens = sum(micro_batch.target_tokens for micro_batch in micro_batches)
    loss_sums = []
    for micro_batch in micro_batches:
        loss_sum = target_loss(model, micro_batch)
        (loss_sum / target_tokens).backward()
        loss_sums.append(loss_sum.detach())
        if must_end is not None and must_end(len(micro_batches) - len(loss_sums)):
            break
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if len(loss_sums) < len(micro_batches):
        micro_batches, planned = micro_batches[: len(loss_sums)], target_tokens
        target_tokens = sum(micro_batch.target_tokens for micro_batch in micro_batches)
        torch._foreach_mul_(
            [p.grad for p in trainable if p.grad is not None], planned / target_tokens
        )
    grad_norm = torch.nn.utils.clip_grad_norm_(trainable, max_grad_norm)
    *losses, norm = update(optimizer, torch.stack([*loss_sums, grad_norm]))
    optimizer.zero_grad(set_to_none=True)
    if not all(map(math.isfinite, [*losses, norm])):
        culprits = [
            mb for mb, loss in zip(micro_batches, losses, strict=True) if not math.isfinite(loss)
        ]
        ids = [
            example_id
            for micro_batch in culprits or micro_batches
            for example_id in micro_batch.example_ids
        ]
        what = "loss" if culprits else "gradient"
        raise NonFiniteError(
            f"non-finite {what} in the step of examples {', '.join(ids)}; no update was made"
        )
    return StepStats(
        sum(losses) / target_tokens, norm, sum(mb.tokens for mb in micro_batches), target_tokens
    )


def update(optimizer: torch.optim.Optimizer, outcome: torch.Tensor) -> list[float]:
    """Update, but not where a number of `outcome` (n,) is not finite; returns its numbers.

    torch's fused optimizers read on the device whether to leave the weights alone, as they do for GradScaler: all of
    the step is queued before the host waits for the device. For others it waits before the update.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = outcome.isfinite().all().logical_not().float()
        optimizer.step()
        return outcome.tolist()
    numbers = outcome.tolist()
    if all(map(math.isfinite, numbers)):
        optimizer.step()
    return numbers


def target_loss(model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
    """Sum of nats over the target tokens of a micro-batch, float32; the head sees only those positions."""
    ids, positions = micro_batch.input_ids, micro_batch.position_ids
    hidden = packed_hidden_states(model, ids, positions, micro_batch.lengths)  # (1, T, D)
    return chunked_loss(
        head(model), hidden[0].index_select(0, micro_batch.target_positions), micro_batch.targets
    )


@torch.no_grad()
def validation_loss(model: nn.Module, micro_batches: list[MicroBatch]) -> float:
    """Mean nats per target token, dropout off."""
    with evaluation_mode(model):
        total = sum(float(target_loss(model, micro_batch)) for micro_batch in micro_batches)
    return total / sum(micro_batch.target_tokens for micro_batch in micro_batches)


def make_optimizer(model: nn.Module, cfg: TrainConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings: dict[str, Any] = {"lr": cfg.lr, "weight_decay": cfg.weight_decay}
    if cfg.optimizer is Optimizer.adamw:
        return torch.optim.AdamW(parameters, fused=True, **settings)
    import bitsandbytes.optim as bnb

    match cfg.optimizer:
        case Optimizer.adamw8bit:
            return bnb.AdamW8bit(parameters, **settings)
        case Optimizer.paged_adamw:
            return bnb.PagedAdamW(parameters, **settings)
        case Optimizer.paged_adamw8bit:
            return bnb.PagedAdamW8bit(parameters, **settings)
        case Optimizer.lion8bit:
            return bnb.Lion8bit(parameters, **settings)
