"""What every command shares: its arguments, the config they compose, and errors of one line."""

import contextlib
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import psutil
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from effchal.config import Config, ConfigError, to_config
from effchal.config.nearest import explain

# An installed package carries the tree inside itself; a checkout has it beside the package.
PACKAGE = Path(__file__).resolve().parent
CONF_DIR = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
# Hydra's flags that a value follows.
VALUE_FLAGS = {"--cfg", "--package", "--config-path", "--config-name", "--config-dir"}
VALUE_FLAGS |= {"--experimental-rerun", "-c", "-p", "-cp", "-cn", "-cd"}
INFO_VALUES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# The file by which a folder is known as a run of a command that can go on with it.
RUN_FILES = {"train": "config.yaml", "evaluate": "results.json", "helm": "scores.json"}

Run = Callable[[Config, list[str], Path], None]


def entry_point(run: Run) -> Callable[[], None]:
    """Turn run(cfg, typed overrides, output folder) into the main() of a command.

    A config that cannot be run ends with one line on stderr and exit code 2;
    any other exception is ours and keeps its traceback.
    """

    @functools.wraps(run)  # Hydra takes the job's name from the wrapped function's module
    def task(tree: DictConfig) -> None:
        job = HydraConfig.get()
        try:
            cfg, typed = to_config(tree), list(job.overrides.task)
            check_lora_choice(cfg, typed)
            run(cfg, typed, Path(job.runtime.output_dir))
        except ConfigError as error:
            sys.exit(fail(str(error)))

    def main() -> None:
        # Hydra then raises its errors to us, instead of printing them and exiting.
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")
        command = Path(run.__code__.co_filename).stem
        if wants_help(sys.argv[1:]):
            from effchal.command_help import print_help

            return print_help(command, sys.argv[1:])
        with one_line_errors():
            sys.argv[1:] = hydra_arguments(command, sys.argv[1:])
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(task)()

    return main


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error of the user's into one line on stderr and exit code 2."""
    try:
        yield
    except HydraException as error:
        sys.exit(fail(explain(error, Config)))
    except ConfigError as error:
        sys.exit(fail(str(error)))
    except PermissionError as error:
        remedy = "another output folder: hydra.run.dir=<folder>"
        sys.exit(fail(f"may not write or read {error.filename}; {remedy}"))


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def job_age_s() -> float:
    """Seconds since this process started; 0 for later jobs of a sweep, which share one start."""
    job: Any = HydraConfig.get()  # a DictConfig, whatever Hydra's annotation says
    number = OmegaConf.select(job, "job.num", default=0)
    return time.time() - psutil.Process().create_time() if number == 0 else 0.0


def wants_help(typed: list[str]) -> bool:
    return not {"--help", "-h"}.isdisjoint(typed)


def hydra_arguments(command: str, typed: list[str]) -> list[str]:
    """What was typed, as Hydra takes it: flags last, a folder as the key that it stands for.

    Hydra's parser refuses overrides on both sides of a flag.

    Raises:
        ConfigError: a folder that is not there or that this command cannot use.
    """
    flags, words = split_flags(typed)
    folders = [word for word in words if is_folder(word)]
    if len(folders) > 1:
        raise ConfigError(f"one folder at most, got {' and '.join(folders)}")
    words = [folder_override(command, word) if word in folders else word for word in words]
    check_lora_keys(words)
    return [*words, *run_dir_of_resumed_run(words), *flags]


def split_flags(typed: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and all other words."""
    flags: list[str] = []
    words: list[str] = []
    takes_value = False
    for word in typed:
        previous = flags[-1] if flags else ""
        is_info = previous in ("--info", "-i") and word in INFO_VALUES
        if takes_value or is_info or (word.startswith("-") and word != "-"):
            flags.append(word)
            is_prefix = (
                len(word) > 2
                and word.startswith("--")
                and any(f.startswith(word) for f in VALUE_FLAGS)
            )
            takes_value = not takes_value and (word in VALUE_FLAGS or is_prefix)
        else:
            words.append(word)
    return flags, words


def is_folder(word: str) -> bool:
    """Whether a word is a path: no override, or a path whose name only looks like one."""
    key, equals, _ = word.partition("=")
    return Path(word).is_dir() if equals and "/" in key else not equals and not word.startswith("~")


def folder_override(command: str, folder: str) -> str:
    """The override that a folder stands for: `resume_from=` for a run to go on with, or `bundle=`.

    Raises:
        ConfigError: no such folder, or not one that this command can use.
    """
    path = Path(folder)
    if command not in (*RUN_FILES, "serve"):
        raise ConfigError(f"{folder}: effchal {command} takes no folder, only key=value")
    if not path.is_dir():
        raise ConfigError(f"no folder {folder} (from {Path.cwd()})")
    if command == "train" and (path / "manifest.json").is_file():
        raise ConfigError(f"{folder} is a bundle; give the run folder that it lies in")
    others = [name for name, file in RUN_FILES.items() if (path / file).is_file()]
    if command == "train" and others and others != ["train"]:
        raise ConfigError(f"{folder} is a run of effchal {others[-1]}, not of train")
    if command in RUN_FILES and (path / RUN_FILES[command]).is_file():
        return f"resume_from={quote(folder)}"
    if command == "train":
        raise ConfigError(f"{folder} is no run: it has no config.yaml")
    return f"bundle={quote(folder)}"  # model_source finds the bundle in a run folder


def quote(value: str) -> str:
    """A text as the value of an override: spaces, commas, quotes and `=` lose their meaning."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def run_dir_of_resumed_run(overrides: list[str]) -> list[str]:
    """A resumed run goes on in its own folder, so that its log does too."""
    for word in overrides:
        if word.partition("=")[0] == "resume_from":
            folder = str(parse_override(word).value()).replace("\\${", "${")
            if Path(folder).is_dir():  # Hydra would make a missing one
                return [f"hydra.run.dir={quote(folder)}"]
    return []


def parse_override(word: str) -> Any:
    return OverridesParser.create().parse_override(word)


def compose_config(overrides: list[str]) -> Config:
    """What a command would get for these overrides.

    Raises:
        ConfigError: as on the command line.
    """
    check_lora_keys(overrides)
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = to_config(compose("config", overrides))
            check_lora_choice(cfg, overrides)
            return cfg
    except HydraException as error:
        raise ConfigError(explain(error, Config)) from error


def check_lora_keys(overrides: list[str]) -> None:
    """Refuse lora.r=8 beside lora=none, where OmegaConf would fail an assertion of its own."""
    if "lora=none" in overrides and any(word.lstrip("+").startswith("lora.") for word in overrides):
        raise ConfigError("a key below lora was given beside lora=none; leave one of them out")


def check_lora_choice(cfg: Config, overrides: list[str]) -> None:
    """An experiment's keys win over a group typed beside it; here that would add an adapter."""
    if "lora=none" in overrides and cfg.lora is not None:
        message = "lora=none does not go with an experiment that sets keys below lora"
        raise ConfigError(f"{message}; leave one of them out")


def overlay(
    frozen: Config, composed: Config, overrides: list[str], allowed: set[str], home: str
) -> Config:
    """`frozen` with the typed overrides whose top key is in `allowed` on top.

    Args:
        frozen: the config of a run or bundle folder.
        composed: what Hydra composed from the same overrides; the values are taken from it.
        overrides: what the user typed, e.g. ["decoding=sample", "serve.port=80"].
        allowed: top-level keys that may change; an experiment may set no others either.
        home: the folder `frozen` comes from, for the message.

    Raises:
        ConfigError: another value of anything else.
    """
    result = OmegaConf.structured(frozen)
    values = OmegaConf.structured(composed)
    for key in keys_set_by(overrides):
        there, here = OmegaConf.select(result, key), OmegaConf.select(values, key)
        if key.partition(".")[0] in allowed:
            OmegaConf.update(result, key, here)
        elif there != here:
            is_group = OmegaConf.is_config(there) or OmegaConf.is_config(here)
            both = "" if is_group else f" (there {there}, here {here})"
            may = f"only {', '.join(sorted(allowed))} may be given here"
            raise ConfigError(f"{key} is frozen in {home}/config.yaml{both}; {may}")
    return to_config(result)


def keys_set_by(overrides: list[str]) -> list[str]:
    """Dotted keys that the overrides set, those of an experiment's file included."""
    keys: list[str] = []
    for override in map(parse_override, overrides):
        if override.key_or_group != "experiment":
            keys.append(override.key_or_group)
        elif override.value() is not None:
            tree: Any = OmegaConf.load(CONF_DIR / "experiment" / f"{override.value()}.yaml")
            groups = [group for entry in tree.pop("defaults", []) for group in entry]
            keys += [group.removeprefix("override /") for group in groups]
            tree.pop("hydra", None)
            keys += _leaves(OmegaConf.to_container(tree))
    return keys


def _leaves(tree: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys
