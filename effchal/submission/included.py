"""Training data inside a hand-in, so that it can be trained again anywhere."""

import shutil
from pathlib import Path

from effchal.config import Config, ConfigError, DataSourceConfig
from effchal.mixing.locate import is_local

FOLDER = "data"


def own_sources(cfg: Config) -> dict[str, DataSourceConfig]:
    """The sources that are files of this machine, by name."""
    return {
        name: source
        for name, source in cfg.data_mix.sources.items()
        if is_local(source) and not source.path.startswith("builtin:")
    }


def check_included(cfg: Config) -> None:
    """Raises ConfigError if include_data=true cannot copy a source, such as a pattern."""
    for name, source in own_sources(cfg).items() if cfg.submit.include_data else ():
        if not Path(source.path).exists():
            raise ConfigError(
                f"data_mix.sources.{name}.path={source.path} is neither a file nor a folder here; "
                "include_data=true copies these alone"
            )


def included_data(folder: Path, cfg: Config) -> dict[str, str]:
    """Copy the sources that are files of this machine; where each one lies in the hand-in."""
    found = {}
    for name, source in own_sources(cfg).items():
        path = Path(source.path)
        target = Path(FOLDER, name, path.name)
        (folder / target).parent.mkdir(parents=True)
        if path.is_file():
            shutil.copyfile(path, folder / target)
        else:
            shutil.copytree(path, folder / target, copy_function=shutil.copyfile)
        found[name] = str(target)
    return found
