"""What every entry point shares: compose the config, report a bad one in one line, exit 2."""

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

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

Run = Callable[[Config, list[str], Path], None]


def entry_point(run: Run) -> Callable[[], None]:
    """Turn run(cfg, typed overrides, output folder) into the main() of `python -m effchal.<name>`.

    A config that cannot be run ends with one line on stderr and exit code 2;
    any other exception is ours and keeps its traceback.
    """

    @functools.wraps(run)  # Hydra takes the job's name from the wrapped function's file
    def task(tree: DictConfig) -> None:
        job = HydraConfig.get()
        try:
            cfg, typed = to_config(tree), list(job.overrides.task)
            check_lora_choice(cfg, typed)
            run(cfg, typed, Path(job.runtime.output_dir))
        except ConfigError as error:
            sys.exit(fail(str(error)))

    def main() -> None:
        os.environ.setdefault(
            "HYDRA_FULL_ERROR", "1"
        )  # raise to us instead of printing and exiting
        typed = sys.argv[1:]
        sys.argv += [f"hydra.job.name={job_name(run)}", *run_dir_of_resumed_run(typed)]
        try:
            check_lora_keys(typed)
            if {argument for argument in typed if argument.startswith("-")} in ({"--help"}, {"-h"}):
                return print_help(
                    run.__globals__["__doc__"], [a for a in typed if not a.startswith("-")]
                )
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(task)()
        except HydraException as error:
            sys.exit(fail(explain(error, Config)))
        except ConfigError as error:
            sys.exit(fail(str(error)))
        except PermissionError as error:
            sys.exit(
                fail(
                    f"may not write or read {error.filename}; another output folder: hydra.run.dir=<folder>"
                )
            )

    return main


def print_help(purpose: str, overrides: list[str]) -> None:
    """What the program is for, and what Hydra's own help tells; that one is slow: it copies the schema for every group.

    Raises:
        ConfigError: as without --help.
    """
    cfg = compose_config(overrides)
    print(purpose.strip(), "\n\nGroups, of each of which one file is taken (group=file):")
    for folder in sorted(path for path in CONF_DIR.iterdir() if path.is_dir()):
        print(f"  {folder.name}: {', '.join(sorted(path.stem for path in folder.glob('*.yaml')))}")
    print("\nKeys, each of which can be given (a.b=value), as they stand now:\n")
    print(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    print("Flags of Hydra, e.g. --multirun for a sweep: --hydra-help")


def compose_config(overrides: list[str]) -> Config:
    """What an entry point would get for these overrides.

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
    if "lora=none" in overrides and any(
        override.lstrip("+").startswith("lora.") for override in overrides
    ):
        raise ConfigError("a key below lora was given beside lora=none; leave one of them out")


def check_lora_choice(cfg: Config, overrides: list[str]) -> None:
    """An experiment's own keys win over a group typed beside it; here that would bring an adapter back."""
    if "lora=none" in overrides and cfg.lora is not None:
        raise ConfigError(
            "lora=none does not go with an experiment that sets keys below lora; leave one of them out"
        )


def job_name(run: Run) -> str:
    """`train` for effchal/train.py."""
    return Path(run.__code__.co_filename).stem


def job_age_s() -> float:
    """Seconds since this process started; 0 for a later job of a sweep, which pays for no start."""
    number = OmegaConf.select(HydraConfig.get(), "job.num", default=0)
    return time.time() - psutil.Process().create_time() if number == 0 else 0.0


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def run_dir_of_resumed_run(arguments: list[str]) -> list[str]:
    """A resumed run goes on in its own folder, so that its log does too."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if (
            key == "resume_from" and Path(value).is_dir()
        ):  # Hydra would make a folder that is not there
            return [f"hydra.run.dir='{value}'"]
    return []


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
            may = ", ".join(sorted(allowed))
            both = (
                ""
                if OmegaConf.is_config(there) or OmegaConf.is_config(here)
                else f" (there {there}, here {here})"
            )
            raise ConfigError(
                f"{key} is frozen in {home}/config.yaml{both}; only {may} may be given here"
            )
    return to_config(result)


def keys_set_by(overrides: list[str]) -> list[str]:
    """Dotted keys that the overrides set, those of an experiment's file among them."""
    keys: list[str] = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group != "experiment":
            keys.append(override.key_or_group)
        elif override.value() is not None:
            tree = OmegaConf.load(CONF_DIR / "experiment" / f"{override.value()}.yaml")
            groups = [group for entry in tree.pop("defaults", []) for group in entry]
            keys += [group.removeprefix("override /") for group in groups]
            tree.pop("hydra", None)
            keys += _leaves(OmegaConf.to_container(tree))
    return keys


def _leaves(tree: dict, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys
