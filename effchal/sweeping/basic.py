"""Hydra's own launcher and sweeper, which are private; checked with hydra-core 1.3.8."""

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

__all__ = ["BasicLauncher", "BasicSweeper"]
