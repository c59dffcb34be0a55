"""What a run tells in the model card of its adapter."""

import contextlib
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.model.device import peak_memory_gib
from effchal.model.tokenizer import is_hub_id
from effchal.runs import provenance, read_record
from effchal.training.model_card import TrainingFacts, model_card
from effchal.training.run import Run


def card_of(run: Run, status: str, is_best: bool = False) -> str:
    """The model card of the weights in `run.setup.model`.

    Args:
        is_best: they are those with the lowest validation loss, not the last ones.
    """
    cfg, setup, state = run.cfg, run.setup, run.state
    if is_best:
        weights, loss = f"of step {state.best_step}, the lowest validation loss", state.best_loss
    else:
        weights, loss = f"the last, of step {state.step}", state.final_loss
    facts = TrainingFacts(
        status=status,
        steps=state.step,
        steps_planned=setup.steps,
        weights=weights,
        tokens=state.tokens,
        target_tokens=state.target_tokens,
        loss_before=state.validation_loss_before,
        loss_after=loss,
        hours=run.clock.spent_s() / 3600,
        peak_memory_gib=peak_memory_gib(setup.device),
        command=state.command,
        base_model=cfg.model.name if is_hub_id(cfg.model.name) else None,
        fingerprint=state.base_model,
        **provenance(setup.device),
    )
    return model_card(cfg, facts, _mix(run.folder))


def _mix(run_dir: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ConfigError):
        return read_record(run_dir / "mix.json")
    return {}
