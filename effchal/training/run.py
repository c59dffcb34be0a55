"""A training run under way."""

from dataclasses import dataclass
from pathlib import Path

from effchal.config import Config
from effchal.training.budget import WallClock
from effchal.training.build import RunState, TrainingSetup


@dataclass(frozen=True)
class Run:
    """What those share who train, measure, record and save."""

    cfg: Config
    folder: Path
    setup: TrainingSetup
    state: RunState
    clock: WallClock
