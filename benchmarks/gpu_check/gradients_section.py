"""Losses and LoRA gradients of packed rows against transformers and peft, example by example."""

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from effchal.config.choices import ActivationCheckpointing
from effchal.mixing.packing import MicroBatch
from effchal.training.layers import prepare_training
from effchal.training.step import target_loss
from gpu_check.models import (
    adapt,
    examples_of,
    micro_batch,
    quantise,
    small_model,
    trainable,
    unpacked,
)
from gpu_check.session import Session

LENGTHS, TINY_LENGTHS = [37, 150, 5, 64], [9, 40, 5, 16]
WINDOW, TINY_WINDOW = 48, 12
MODELS = ("llama", "mistral", "qwen2")
BASES = ("float32", "bfloat16", "nf4")
TINY_CASES = (("llama", "float32"), ("llama", "nf4"), ("mistral", "float32"), ("qwen2", "bfloat16"))
DROPOUT, SEEDS, TINY_SEEDS = 0.05, 12, 4
FLOAT32_LOSS, FLOAT32_GRADIENT = 1e-5, 1e-4  # relative
ROUNDED_LOSS, ROUNDED_GRADIENT = 5e-3, 0.03
MEAN_OFF, SPREAD_OFF = 0.02, 0.08  # without the scale 1 / (1 - p) the mean is 0.05 off


@dataclass(frozen=True)
class Case:
    """A model, the format of its base weights, and a row to learn from."""

    kind: str
    base: str
    tiny: bool

    @property
    def window(self) -> int | None:
        size = TINY_WINDOW if self.tiny else WINDOW
        return size if self.kind == "mistral" else None

    @property
    def told(self) -> dict[str, Any]:
        return {"model": self.kind, "window": self.window, "base": self.base}

    def batch(self) -> MicroBatch:
        return micro_batch(TINY_LENGTHS if self.tiny else LENGTHS, 512)

    def base_model(self) -> Any:
        dtype = torch.float32 if self.base == "float32" else torch.bfloat16
        model = small_model(self.kind, dtype, self.window, self.tiny)
        return quantise(model) if self.base == "nf4" else model

    def adapted(self, dropout: float = 0.0) -> Any:
        # .train() at once: in evaluation mode on a CPU bitsandbytes repacks NF4 weights for good.
        return adapt(self.base_model(), dropout=dropout).train()


def gradients(session: Session) -> None:
    """Without dropout against float32 arithmetic on the same weights; with it, by its laws."""
    for kind, base in TINY_CASES if session.tiny else itertools.product(MODELS, BASES):
        case = Case(kind, base, session.tiny)
        session.attempt("gradients", lambda s, c=case: exact(s, c), **case.told)
        session.attempt("dropout", lambda s, c=case: dropped(s, c), **case.told)


def exact(session: Session, case: Case) -> None:
    """The library's own rounding says how far bf16 and NF4 may be from float32 arithmetic."""
    batch, rounds = case.batch(), case.base != "float32"
    reference = adapt(unpacked(case.base_model())).train()
    true_loss, true = by_the_library(reference, batch)
    library_loss, library = by_the_library(case.adapted(), batch) if rounds else (true_loss, true)
    library_off = distance(library, true)
    limit = max(ROUNDED_GRADIENT, 1.5 * library_off) if rounds else FLOAT32_GRADIENT
    for keep in ActivationCheckpointing:
        loss, found, fused = by_us(case.adapted(), batch, keep)
        loss_off, off = abs(loss / true_loss - 1), distance(found, true)
        session.tell(
            "gradients",
            **case.told,
            keep=keep.value,
            fused=fused,
            loss_off=loss_off,
            gradient_off=off,
            library_loss_off=abs(library_loss / true_loss - 1),
            library_gradient_off=library_off,
            ok=loss_off <= (ROUNDED_LOSS if rounds else FLOAT32_LOSS) and off <= limit,
        )


def dropped(session: Session, case: Case) -> None:
    """One seed gives the same gradients at every level; many vary about the right ones.

    Gradients with dropout have about the mean of those without, and the library's distance from
    it. A wrong scale moves the mean, a wrong rate the distance.
    """
    batch, found = case.batch(), []
    for keep in ActivationCheckpointing:
        model = case.adapted(DROPOUT)
        torch.manual_seed(5)
        found.append(by_us(model, batch, keep))
    apart = max(distance(gradient, found[0][1]) for _, gradient, _ in found)
    _, without = by_the_library(case.adapted(), batch)
    seeds = TINY_SEEDS if case.tiny else SEEDS
    model = case.adapted(DROPOUT)
    library = along_and_away(lambda: by_the_library(model, batch)[1], model, without, seeds)
    prepare_training(model, ActivationCheckpointing.none)
    ours = along_and_away(lambda: learned(model, batch), model, without, seeds)
    scale_off, spread_off = ours[0] - library[0], ours[1] / library[1] - 1
    session.tell(
        "dropout",
        **case.told,
        fused=found[0][2],
        same_loss_at_every_level=len({loss for loss, _, _ in found}) == 1,
        gradients_apart=apart,
        mean_off=scale_off,
        spread_off=spread_off,
        # On a card atomic sums of the attention's backward pass may change the last bits.
        ok=apart <= (1e-3 if case.base == "float32" else 2e-2)
        and abs(scale_off) <= MEAN_OFF
        and abs(spread_off) <= SPREAD_OFF,
    )


def along_and_away(
    gradient: Callable[[], torch.Tensor], model: Any, true: torch.Tensor, seeds: int
) -> tuple[float, float]:
    """Of gradients under some seeds: mean share along `true`, and mean relative distance."""
    along, away = [], []
    for seed in range(seeds):
        torch.manual_seed(100 + seed)
        model.zero_grad(set_to_none=True)
        found = gradient()
        along.append(float(found @ true / (true @ true)))
        away.append(distance(found, true))
    return statistics.mean(along), statistics.mean(away)


def by_the_library(model: Any, batch: MicroBatch) -> tuple[float, torch.Tensor]:
    """Sum of nats and adapter gradients: each example alone, transformers' own logits."""
    total = 0.0
    for ids in examples_of(batch):
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        loss = F.cross_entropy(logits, ids[0, 1:], reduction="sum")
        loss.backward()
        total += loss.item()
    return total, gradients_of(model)


def by_us(
    model: Any, batch: MicroBatch, keep: ActivationCheckpointing
) -> tuple[float, torch.Tensor, bool]:
    fused = prepare_training(model, keep)
    loss = target_loss(model, batch)
    loss.backward()
    return loss.item(), gradients_of(model), fused


def learned(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Gradients of a model that is prepared."""
    target_loss(model, batch).backward()
    return gradients_of(model)


def gradients_of(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.float().flatten() for p in trainable(model)])


def distance(found: torch.Tensor, true: torch.Tensor) -> float:
    """Relative, of two vectors."""
    return float((found - true).norm() / true.norm())
