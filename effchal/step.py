"""The training step: loss over target tokens, one update, and what may stop it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from effchal.attention import packed_hidden_states
from effchal.choices import Optimizer
from effchal.config import TrainConfig
from effchal.data.packing import MicroBatch
from effchal.loss import chunked_loss
from effchal.model import evaluation_mode
from effchal.parts import head


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
        NonFiniteError: before the update, naming the examples.
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
        torch._foreach_mul_([p.grad for p in trainable if p.grad is not None], planned / target_tokens)
    grad_norm = torch.nn.utils.clip_grad_norm_(trainable, max_grad_norm)
    finite = torch.isfinite(torch.stack([*loss_sums, grad_norm])).tolist()  # the step waits for the device here
    if not all(finite):
        culprits = [mb for mb, ok in zip(micro_batches, finite, strict=False) if not ok] or micro_batches
        ids = [example_id for micro_batch in culprits for example_id in micro_batch.example_ids]
        what = "gradient" if all(finite[:-1]) else "loss"
        optimizer.zero_grad(set_to_none=True)
        raise NonFiniteError(f"non-finite {what} in the step of examples {', '.join(ids)}; no update was made")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    tokens = sum(micro_batch.tokens for micro_batch in micro_batches)
    return StepStats(float(torch.stack(loss_sums).sum()) / target_tokens, float(grad_norm), tokens, target_tokens)


def target_loss(model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
    """Sum of nats over the target tokens of a micro-batch, float32; the head sees only those positions."""
    ids, positions = micro_batch.input_ids, micro_batch.position_ids
    hidden = packed_hidden_states(model, ids, positions, micro_batch.lengths)  # (1, T, D)
    return chunked_loss(head(model), hidden[0].index_select(0, micro_batch.target_positions), micro_batch.targets)


@torch.no_grad()
def heldout_loss(model: nn.Module, micro_batches: list[MicroBatch]) -> float:
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
