"""Launchers that need a package which is not always there."""

import importlib.util

from omegaconf import DictConfig

from effchal.config import ConfigError

EXTRAS = {  # by a word of the launcher's class: the module that it needs, and the extra with it
    "submitit": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "RayLauncher": ("ray", "ray"),
}


def check_launcher(config: DictConfig) -> None:
    """Raise ConfigError, with the extra to install, for a launcher whose package is missing."""
    target = str((config.hydra.launcher or {}).get("_target_", ""))
    for word, (module, extra) in EXTRAS.items():
        if word in target and importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"this hydra/launcher needs the package {module.rpartition('.')[2]}, which is "
                f"not here: pip install 'effchal[{extra}]'"
            )
