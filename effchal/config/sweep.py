"""The schema of sweeps: layer sets of one evaluation, and the trainings of `effchal train -m`."""

from dataclasses import dataclass, field

from effchal.config.decoding import Layers, require_layers
from effchal.config.errors import ABOVE_0, AT_LEAST_1, Bound, require_keys


@dataclass
class SweepConfig:
    """Several layer sets in one evaluation, and several trainings in one budget."""

    # Layer sets, each low, high or a list. They replace decoding.premature_layers.
    premature_layers: list[Layers] = field(default_factory=list)
    # With dola and sled, also score greedy, greedy with the same penalty, no penalty, and the
    # longest answer.
    controls: bool = True
    # [h] One wall-clock budget for all trainings of a sweep, shared out by successive halving.
    # null = each has its budget.hours.
    hours: float | None = None
    # Successive halving: one of so many trainings goes on after each rung, by validation loss.
    reduction_factor: int = 3
    # Trainings at a time. null = as many as the visible GPUs suffice for, and one without any; as
    # many as the launcher has places for with hydra/launcher=ray or submitit_slurm.
    at_once: int | None = None

    def __post_init__(self) -> None:
        for i, layers in enumerate(self.premature_layers):
            require_layers(f"sweep.premature_layers[{i}]", layers)
        require_keys(self, "sweep", ABOVE_0, "hours")
        require_keys(self, "sweep", Bound("at least 2", lambda n: n >= 2), "reduction_factor")
        require_keys(self, "sweep", AT_LEAST_1, "at_once")
