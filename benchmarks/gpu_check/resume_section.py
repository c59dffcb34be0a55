"""A run that is stopped and taken up again has the bits of one that was not."""

import tempfile
from pathlib import Path

import torch

from effchal.config import TrainConfig
from effchal.config.choices import ActivationCheckpointing
from effchal.training.checkpoint import load_checkpoint, save_checkpoint
from effchal.training.layers import prepare_training
from effchal.training.step import make_optimizer, train_step
from gpu_check.measure import ON_CARD
from gpu_check.models import adapt, micro_batch, small_model, trainable
from gpu_check.session import Session

STEPS = 8


def resume(session: Session) -> None:
    """With dropout and without, under deterministic algorithms and without.

    Flash attention's backward pass sums in any order unless they are asked for, so only then
    must the bits be the same.
    """
    for dropout in (0.0, 0.05):
        for deterministic in (True, False):
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            try:
                compare(session, dropout, deterministic)
            finally:
                torch.use_deterministic_algorithms(False)


def compare(session: Session, dropout: float, deterministic: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, losses = weights_after(session, folder, dropout, save=True)
        again, other_losses = weights_after(session, folder, dropout)
        resumed, _ = weights_after(session, folder, dropout, load=True)
    same = torch.equal(whole, resumed)
    pairs = enumerate(zip(losses, other_losses, strict=True))
    session.tell(
        "resume",
        dropout=dropout,
        deterministic=deterministic,
        resumed_has_the_same_bits=same,
        repeated_has_the_same_bits=torch.equal(whole, again),
        resumed_is_the_repeated_one=torch.equal(resumed, again),
        first_other_loss=next((step for step, (one, other) in pairs if one != other), None),
        ok=same or not deterministic,
    )


def weights_after(
    session: Session, folder: Path, dropout: float, save: bool = False, load: bool = False
) -> tuple[torch.Tensor, list[float]]:
    """Adapter weights after all steps, and the loss of each that was done.

    The run is saved on the way, or taken up from what was saved.
    """
    dtype = torch.bfloat16 if ON_CARD else torch.float32
    lengths = [50, 31, 70] if session.tiny else [200, 131, 300]
    steps = STEPS // 2 if session.tiny else STEPS
    model = adapt(small_model("llama", dtype, tiny=session.tiny), dropout=dropout).train()
    prepare_training(model, ActivationCheckpointing.selective)
    optimizer = make_optimizer(model, TrainConfig())
    torch.manual_seed(7)
    first, losses = 0, []
    if load:
        state = load_checkpoint(folder, model, optimizer)
        assert state is not None
        first = state["step"]
    for step in range(first, steps):
        stats = train_step(model, optimizer, [micro_batch(lengths, 512, step)], 0.3)
        losses.append(stats.loss)
        if save and step + 1 == steps // 2:
            save_checkpoint(folder, model, optimizer, {"step": step + 1})
    flat = [parameter.detach().flatten().cpu() for parameter in trainable(model)]
    return torch.cat(flat), losses
