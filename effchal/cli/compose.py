"""What every command shares: its folder, the config that it composes, and errors of one line."""

import contextlib
import errno
import functools
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import hydra
import psutil
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from effchal.cli.arguments import (
    LOG_ONLY,
    RUN_DIRS,
    RUN_FILES,
    SHOWING,
    actions_of,
    data_overrides,
    hydra_arguments,
    model_overrides,
    parse_override,
    split_flags,
    values_of,
    wants_help,
)
from effchal.cli.failures import failure_kept, failure_of, one_line, one_line_errors
from effchal.cli.overrides import check_readable
from effchal.config import Config, ConfigError, to_config
from effchal.runs import bundle_around, new_folder, nothing_left_if_refused
from effchal.tracking.lines import log_warnings
from effchal.tracking.manifest import LEFT_BY_A_SWEEP, jobs_of_sweep, recorded_try
from effchal.tracking.sweep import SweepJob, failures_of

# An installed package carries the tree inside itself; a checkout has it beside the package.
PACKAGE = Path(__file__).resolve().parents[1]
CONF_DIR = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
PLUGINS = PACKAGE / "sweeping" / "plugins"  # Hydra takes plugins from below `hydra_plugins` alone
sys.path.append(str(PLUGINS))
# conf/hydra/launcher has files of the names that a plugin has, on purpose.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore")
# A launcher's process resolves the folder's name as well, from what this one keeps of it.
OmegaConf.register_new_resolver("new_folder", str, use_cache=True, replace=True)
OmegaConf.register_new_resolver("minutes", lambda hours: math.ceil(60 * hours), replace=True)

Run = Callable[[Config, list[str], Path], None]
AfterSweep = Callable[[dict[Path, SweepJob]], None]


def entry_point(run: Run, after_sweep: AfterSweep | None = None) -> Callable[[], None]:
    """Turn run(cfg, typed overrides, output folder) into the main() of a command.

    A config that cannot be run ends with one line on stderr and exit code 2, and leaves no
    folder; any other exception is ours and keeps its traceback. A sweep goes on after a
    failed job; `after_sweep` gets its jobs by their folders when it ends.
    """
    command = Path(run.__code__.co_filename).stem
    outputs = Outputs(command)
    jobs: dict[Path, SweepJob] = {}

    @functools.wraps(run)  # Hydra takes the job's name from the wrapped function's module
    def task(tree: DictConfig) -> None:
        log_warnings()
        job = HydraConfig.get()
        folder, is_sweep = Path(job.runtime.output_dir), job.mode == RunMode.MULTIRUN
        if is_sweep:
            jobs[folder] = SweepJob(list(job.overrides.task))
        with (
            failure_kept(jobs[folder]) if is_sweep else one_line_errors(),
            recorded_try(folder, failure_of),
            nothing_left_if_refused(folder, folder in outputs.of_user),
        ):
            cfg, typed = to_config(tree), list(job.overrides.task)
            check_lora_choice(cfg, typed)
            if is_sweep and (folder / RUN_FILES.get(command, "none")).is_file():
                cfg.resume_from = str(folder)  # the same sweep again: this job was begun
            run(cfg, typed, folder)

    def main() -> None:
        # Hydra then raises its errors to us, instead of printing them and exiting.
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")
        if wants_help(sys.argv[1:]):
            from effchal.cli.command_help import print_help

            return print_help(command, sys.argv[1:])
        try:
            with one_line_errors(), outputs:
                sys.argv[1:] = hydra_arguments(command, sys.argv[1:])
                check_actions(sys.argv[1:])
                outputs.register(sys.argv[1:])
                hydra.main(str(CONF_DIR), "config", version_base="1.3")(task)()
        finally:
            ended = jobs_of_sweep() or jobs
            if ended and after_sweep:
                after_sweep(ended)
        if failures := failures_of(ended):
            sys.exit(f"error: {failures}")

    return main


def check_actions(arguments: list[str]) -> None:
    """Raise ConfigError for two flags of which each says what is done; Hydra has a traceback."""
    actions = sorted(actions_of(split_flags(arguments)[0]))
    if len(actions) > 1:
        raise ConfigError(f"{' and '.join(actions)} do not go together; leave all but one out")


class Outputs:
    """The output folders of a command: each with a name of its own, none left by a refusal."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._made: list[Path] = []
        self.of_user: set[Path] = set()  # typed folders that were there before

    def register(self, arguments: list[str]) -> None:
        """Tell Hydra how conf/config.yaml gets its folder: `${new_folder:<path>}`."""
        flags, words = split_flags(arguments)
        typed = map(Path, values_of(words, RUN_DIRS))
        self.of_user = {folder.absolute() for folder in typed if folder.is_dir()}
        make = self._make if SHOWING.isdisjoint(actions_of(flags)) else str
        # Cached, for Hydra asks more than once, and again for each job of a sweep.
        OmegaConf.register_new_resolver("new_folder", make, use_cache=True, replace=True)

    def _make(self, path: str) -> str:
        try:
            if bundle_around(Path(path)) is not None:  # only LOG_ONLY commands get here
                raise OSError(errno.EPERM, "it lies in a bundle")
            folder = new_folder(Path(path))
        except OSError as error:
            if self._command not in LOG_ONLY:
                return path  # Hydra tries as well, and its error comes out as it is
            folder = Path(tempfile.mkdtemp(prefix=f"effchal_{self._command}_"))
            print(f"cannot write {path} ({error.strerror}); using {folder}", file=sys.stderr)
        else:
            self._made.append(folder.absolute())
        return str(folder)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        """Remove what has nothing in it: a sweep whose jobs were all refused, empty parents."""
        for folder in self._made:
            if {path.name for path in folder.glob("*")} <= LEFT_BY_A_SWEEP:
                for path in folder.glob("*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            with contextlib.suppress(OSError):
                for each in (folder, *folder.parents[:2]):
                    if each.is_dir():
                        each.rmdir()


_counted: set[int] = set()  # processes whose age a job has counted; a fork has one of its own


def job_age_s() -> float:
    """Seconds since this process started; 0 for later jobs of a sweep, which share one start."""
    process = psutil.Process()
    if process.pid in _counted:
        return 0.0
    _counted.add(process.pid)
    return time.time() - process.create_time()


def compose_config(overrides: list[str]) -> Config:
    """What a command would get for these overrides.

    Raises:
        ConfigError: as on the command line.
    """
    overrides = model_overrides(data_overrides(overrides))
    for word in overrides:
        check_readable(word, is_sweep=False)
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = to_config(compose("config", overrides))
            check_lora_choice(cfg, overrides)
            return cfg
    except (HydraException, AssertionError) as error:
        message = one_line(error)
        if message is None:
            raise
        raise ConfigError(message) from error


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
        allowed: keys that may change, as patterns; a group's name allows all keys in it. An
            experiment may set no others either.
        home: the folder `frozen` comes from, for the message.

    Raises:
        ConfigError: another value of anything else.
    """
    result = OmegaConf.structured(frozen)
    values = OmegaConf.structured(composed)
    for key in keys_set_by(overrides):
        there, here = OmegaConf.select(result, key), OmegaConf.select(values, key)
        if is_allowed(key, allowed):
            OmegaConf.update(result, key, here, merge=there is not None)
        elif there != here:
            is_group = OmegaConf.is_config(there) or OmegaConf.is_config(here)
            was, now = (getattr(value, "value", value) for value in (there, here))
            both = "" if is_group else f" (there {was}, here {now})"
            may = f"only {', '.join(sorted(allowed))} may be given here"
            raise ConfigError(f"{key} is frozen in {home}/config.yaml{both}; {may}")
    return to_config(result)


def is_allowed(key: str, patterns: set[str]) -> bool:
    """Whether a pattern matches the key or its group. A group's pattern allows all its keys."""
    names = (key, key.partition(".")[0])
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def keys_set_by(overrides: list[str]) -> list[str]:
    """Dotted keys that the overrides set, those of an experiment's file included."""
    keys: list[str] = []
    for override in map(parse_override, overrides):
        value = override.value()
        if isinstance(value, dict):
            keys += _leaves(value, f"{override.key_or_group}.")
        elif override.key_or_group != "experiment":
            keys.append(override.key_or_group)
        elif value is not None:
            tree: Any = OmegaConf.load(CONF_DIR / "experiment" / f"{value}.yaml")
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
