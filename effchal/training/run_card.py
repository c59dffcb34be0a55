"""What a run tells in the model card of its adapter."""

import contextlib
import json
from pathlib import Path
from typing import Any

from effchal.config import Config
from effchal.model.device import peak_memory_gib
from effchal.model.tokenizer import is_hub_id
from effchal.runs import provenance
from effchal.training.budget import WallClock
from effchal.training.build import RunState, TrainingSetup
from effchal.training.model_card import TrainingFacts, model_card


def card_of(
    cfg: Config,
    run_dir: Path,
    setup: TrainingSetup,
    state: RunState,
    clock: WallClock,
    status: str,
    is_best: bool = False,
) -> str:
    """The model card of the weights in `setup.model`.

    Args:
        is_best: they are those with the lowest validation loss, not the last ones.
    """
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
        hours=clock.spent_s() / 3600,
        peak_memory_gib=peak_memory_gib(setup.device),
        command=state.command,
        base_model=cfg.model.name if is_hub_id(cfg.model.name) else None,
        fingerprint=state.base_model,
        **provenance(setup.device),
    )
    return model_card(cfg, facts, _mix(run_dir))


def _mix(run_dir: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((run_dir / "mix.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}
