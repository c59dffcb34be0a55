"""The training step: loss over target tokens, gradients of all micro-batches, one update."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from effchal.config import TrainConfig
from effchal.config.choices import Optimizer
from effchal.kernels.attention import packed_hidden_states
from effchal.kernels.loss import chunked_loss
from effchal.mixing.packing import MicroBatch
from effchal.model.faults import is_out_of_memory, release
from effchal.model.load import evaluation_mode
from effchal.model.route import logits_head
from effchal.training.lockstep import Lockstep
from effchal.training.ranks import ALONE, Ranks


class NonFiniteError(FloatingPointError):
    """Loss or gradient is not finite; the weights are those from before the step."""


class MicroBatchTooLarge(MemoryError):
    """The device lacks the memory for a micro-batch; the weights are as before the step."""

    def __init__(self, micro_batch: MicroBatch) -> None:
        super().__init__(f"out of memory in a micro-batch of {micro_batch.tokens} tokens")
        self.micro_batch = micro_batch


class PassLeft(MemoryError):
    """A process of a sharded model left a pass, where the others wait for it and cannot be told."""

    def __init__(self, tokens: int) -> None:
        super().__init__(
            f"out of memory in a micro-batch of {tokens} tokens, where train.parallel=fsdp cannot "
            "try the step again; start anew with a smaller train.micro_batch_size or "
            "train.activation_checkpointing=full"
        )


@dataclass
class StepStats:
    loss: float  # mean nats per target token
    grad_norm: float  # before clipping
    tokens: int  # without padding
    target_tokens: int


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[MicroBatch],
    max_grad_norm: float,
    must_cut: Callable[[], bool] | None = None,
    before_update: Callable[[bool], None] | None = None,
    ranks: Ranks = ALONE,
) -> StepStats:
    """One optimizer step. Gradients equal those of one big batch of all micro-batches.

    Args:
        micro_batches: of this process; each process has as many.
        must_cut: asked after each micro-batch but the last. True leaves out the rest, and
            the update is that of a batch of those done. It answers every process alike.
        before_update: called once, with whether the step was cut.
        ranks: the processes that share the step.

    Raises:
        NonFiniteError: no update was made; the message names the examples.
        MicroBatchTooLarge: no update was made; gradients are those of the micro-batches done.
        RankLost: no update was made.
    """
    # Divide by target tokens of the whole step, not per micro-batch: answers differ in
    # length, and a mean of means would weigh short answers more.
    planned = target_tokens = sum(ranks.gather(count_targets(micro_batches)))
    loss_sums: list[Tensor] = []
    for micro_batch in micro_batches:
        loss_sums.append(fitting_backward(model, micro_batch, planned, ranks))
        if len(loss_sums) < len(micro_batches) and must_cut is not None and must_cut():
            break
    trainable = [each for group in optimizer.param_groups for each in group["params"]]
    was_cut = len(loss_sums) < len(micro_batches)
    done = micro_batches[: len(loss_sums)]
    losses_of_all = sum_over(ranks, trainable, loss_sums)
    tokens = ranks.gather((count_targets(done), sum(each.tokens for each in done)))
    target_tokens = sum(targets for targets, _ in tokens)
    if was_cut:
        gradients = [parameter.grad for parameter in trainable if parameter.grad is not None]
        # One launch for all of them; private to torch, checked with 2.11 and 2.13.
        torch._foreach_mul_(gradients, planned / target_tokens)
    grad_norm = torch.nn.utils.clip_grad_norm_(trainable, max_grad_norm)
    if before_update is not None:
        before_update(was_cut)
    *losses, norm = update(optimizer, torch.cat([losses_of_all.flatten(), grad_norm[None]]))
    optimizer.zero_grad(set_to_none=True)
    require_finite(losses, norm, done, ranks)
    return StepStats(sum(losses) / target_tokens, norm, sum(n for _, n in tokens), target_tokens)


def count_targets(micro_batches: list[MicroBatch]) -> int:
    return sum(micro_batch.target_tokens for micro_batch in micro_batches)


def fitting_backward(
    model: nn.Module, micro_batch: MicroBatch, planned: int, ranks: Ranks
) -> Tensor:
    """`backward`, which fails on every rank if it fails on one."""
    failed, loss_sum = None, None
    try:
        loss_sum = backward(model, micro_batch, planned, ranks.lockstep)
    except MicroBatchTooLarge as error:
        failed = error
    if failed and ranks.are_sharded and not (ranks.lockstep and ranks.lockstep.is_over):
        raise PassLeft(micro_batch.tokens) from failed
    if not ranks.any(failed is not None):
        assert loss_sum is not None
        return loss_sum
    found = ranks.gather(failed and (failed.micro_batch.lengths, failed.micro_batch.example_ids))
    lengths, ids = max((each for each in found if each), key=lambda each: sum(each[0]))
    raise MicroBatchTooLarge(replace(micro_batch, lengths=lengths, example_ids=ids, is_idle=False))


def sum_over(ranks: Ranks, trainable: list[nn.Parameter], loss_sums: list[Tensor]) -> Tensor:
    """Add up the gradients of all ranks, in place; (ranks, micro-batches) their losses."""
    losses = torch.zeros(ranks.size, len(loss_sums), device=loss_sums[0].device)
    losses[ranks.rank] = torch.stack(loss_sums)
    if ranks.are_several:
        for parameter in trainable:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = (parameter.grad for parameter in trainable if parameter.grad is not None)
        ranks.sum_([*gradients, losses])
    return losses


def backward(
    model: nn.Module, micro_batch: MicroBatch, planned: int, lockstep: Lockstep | None = None
) -> Tensor:
    """Add a micro-batch's gradients to those of its step; its loss_sum, detached.

    Args:
        planned: target tokens of the step.
        lockstep: of layers at which other processes wait.

    Raises:
        MicroBatchTooLarge: gradients are no use.
    """

    def finish(loss_sum: Tensor) -> Tensor:
        if micro_batch.is_idle:
            loss_sum = 0 * loss_sum
        (loss_sum / planned).backward()
        return loss_sum.detach()

    try:
        if lockstep is None:
            return finish(target_loss(model, micro_batch))
        lockstep.start()
        hidden = hidden_states(model, micro_batch)
        done = lockstep.backward(hidden, lambda: finish(loss_of(model, hidden, micro_batch)))
        if done is not None:
            return done
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        release(error)
    raise MicroBatchTooLarge(micro_batch)  # not inside, where it would hold the other one


def require_finite(
    losses: list[float], norm: float, micro_batches: list[MicroBatch], ranks: Ranks = ALONE
) -> None:
    """Raise NonFiniteError, naming the examples, unless losses and gradient norm are finite.

    Args:
        losses: of the micro-batches of each rank, one rank after the other.
        micro_batches: of this rank.
    """
    if all(map(math.isfinite, [*losses, norm])):
        return
    of_ranks = ranks.gather([each.example_ids for each in micro_batches])
    examples = [names for of_rank in of_ranks for names in of_rank]
    bad = [names for names, loss in zip(examples, losses, strict=True) if not math.isfinite(loss)]
    ids = [name for names in bad or examples for name in names]
    raise NonFiniteError(
        f"non-finite {'loss' if bad else 'gradient'} in the step of examples {', '.join(ids)}; "
        "no update was made"
    )


def update(optimizer: Any, outcome: Tensor) -> list[float]:
    """Update the weights unless a number of `outcome` (n,) is not finite; returns its numbers.

    torch's fused optimizers read on the device whether to leave the weights alone, as they
    do for GradScaler (private API, checked with torch 2.13). So the host queues all of the
    step before it waits for the device. For other optimizers it waits before the update.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = outcome.isfinite().all().logical_not().float()
        optimizer.step()
        return outcome.tolist()
    numbers = outcome.tolist()
    if all(map(math.isfinite, numbers)):
        optimizer.step()
    return numbers


def target_loss(model: nn.Module, micro_batch: MicroBatch) -> Tensor:
    """Sum of nats over the target tokens of a micro-batch: a float32 scalar.

    The head computes logits at those positions alone.
    """
    return loss_of(model, hidden_states(model, micro_batch), micro_batch)


def hidden_states(model: nn.Module, micro_batch: MicroBatch) -> Tensor:
    """(1, T, D)."""
    ids, positions = micro_batch.input_ids, micro_batch.position_ids
    return packed_hidden_states(model, ids, positions, micro_batch.lengths)


def loss_of(model: nn.Module, hidden: Tensor, micro_batch: MicroBatch) -> Tensor:
    at_targets = hidden[0].index_select(0, micro_batch.target_positions)
    return chunked_loss(logits_head(model), at_targets, micro_batch.targets)


@torch.no_grad()
def validation_loss(
    model: nn.Module, micro_batches: list[MicroBatch], ranks: Ranks = ALONE
) -> float:
    """Mean nats per target token, without dropout.

    Args:
        micro_batches: of this process; each process has as many.

    Raises:
        MicroBatchTooLarge: of a single example.
        PassLeft: memory lacked where other processes wait.
    """
    with evaluation_mode(model):
        losses = [(each.is_idle, fitting_loss(model, each, ranks)) for each in micro_batches]
    own = sum(loss for is_idle, loss in losses if not is_idle)
    parts = ranks.gather((own, count_targets(micro_batches)))
    return sum(loss for loss, _ in parts) / sum(targets for _, targets in parts)


def fitting_loss(model: nn.Module, micro_batch: MicroBatch, ranks: Ranks) -> float:
    """`target_loss`, in halves of the examples where the device lacks the memory for all."""
    try:
        return float(target_loss(model, micro_batch))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        release(error)
    if ranks.are_sharded:
        raise PassLeft(micro_batch.tokens)
    if len(micro_batch.lengths) == 1:
        raise MicroBatchTooLarge(micro_batch)
    return sum(fitting_loss(model, half, ranks) for half in micro_batch.halves())


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
