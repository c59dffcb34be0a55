"""What Hydra finds of this package: its sweeper and a launcher for Ray.

Hydra takes plugins only from modules below `hydra_plugins`, and imports them all at every start.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from effchal.sweeping.basic import BasicSweeper


class EffchalSweeper(BasicSweeper):
    """Hydra's own sweeper, with a manifest."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from effchal.sweeping.extras import check_launcher

        check_launcher(config)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        from effchal.sweeping.sweep import sweep

        return sweep(self, arguments, super().sweep)


class RayLauncher(Launcher):
    """hydra/launcher=ray."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.config: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config

    def places(self) -> int:
        """How many jobs the cluster runs at a time."""
        from effchal.sweeping.on_ray import places

        return places(self.config, self.options)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from effchal.sweeping.on_ray import launch

        return launch(self.config, self.options, job_overrides)
