"""The questions of a hand-in: what an evaluation is told, with a user's own files inside."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.cli.overrides import key_of, quote
from effchal.config import Config, ConfigError, to_plain

GROUPS = ("scenario", "sweep", "evaluate")  # of the config: what an evaluation goes by
FOLDER = "evaluation/questions"
GRADER = "evaluation/grader.py"
OF_THIS_MACHINE = ("scenario.path", "scenario.data", "evaluate.grader", "evaluate.memory_gib")


@dataclass(frozen=True)
class Questions:
    """Everything that an evaluation needs beside the model."""

    words: list[str]  # overrides, without paths
    files: list[str]  # a user's own questions, from the hand-in's folder
    grader: str | None  # function in GRADER
    wants_data: bool  # scenario.path must name a folder

    def overrides(self, typed: list[str]) -> list[str]:
        """What `effchal evaluate` is told, in the hand-in's folder.

        Args:
            typed: overrides of paths on this machine, such as scenario.path.

        Raises:
            ConfigError: scenario.path is needed, and nobody typed it.
        """
        if self.wants_data and "scenario.path" not in map(key_of, typed):
            raise ConfigError(
                "the scores come from data in a folder, which is not part of the hand-in; give "
                "scenario.path=<folder>: effchal fetch scenarios makes one"
            )
        own = [f"scenario.data={json.dumps(self.files, ensure_ascii=False)}"]
        if self.grader is not None:
            own.append(f"evaluate.grader={json.dumps(f'{GRADER}:{self.grader}')}")
        return [*self.words, *own, *typed]


def take_questions(cfg: Config, folder: Path) -> Questions:
    """What `cfg` asks, with the user's own files copied into the hand-in."""
    names = check_names(cfg)
    (folder / FOLDER).mkdir(parents=True)
    for name, path in names.items():
        shutil.copyfile(path, folder / FOLDER / name)
    function = None
    if cfg.evaluate.grader is not None:
        path, _, function = cfg.evaluate.grader.rpartition(":")
        shutil.copyfile(path, folder / GRADER)
    plain: dict[str, Any] = to_plain(cfg)
    words = [
        f"{group}.{key}={json.dumps(value, ensure_ascii=False)}"
        for group in GROUPS
        for key, value in plain[group].items()
        if f"{group}.{key}" not in OF_THIS_MACHINE
    ]
    files = [f"{FOLDER}/{name}" for name in names]
    return Questions(words, files, function, cfg.scenario.path is not None)


def check_names(cfg: Config) -> dict[str, str]:
    """Paths of a user's own questions, by the name that a file gets in the hand-in.

    Raises:
        ConfigError: a folder, or two files of one name.
    """
    names: dict[str, str] = {}
    for path in cfg.scenario.data:
        name = Path(path).name
        if not Path(path).is_file():
            raise ConfigError(f"data={path} is no file; a hand-in takes files of questions alone")
        if name in names:
            raise ConfigError(f"{names[name]} and {path} have one name; give each its own")
        names[name] = path
    return names


def paths_of(cfg: Config) -> list[str]:
    """Overrides that say where on this machine the data and the base model lie."""
    found = []
    if cfg.scenario.path is not None:
        found.append(f"scenario.path={quote(os.path.abspath(cfg.scenario.path))}")
    base = Path(cfg.base_model or cfg.model.name)
    if base.is_dir():
        found.append(f"base_model={quote(str(base.absolute()))}")
    if cfg.evaluate.memory_gib is not None:
        found.append(f"evaluate.memory_gib={cfg.evaluate.memory_gib}")
    return found
