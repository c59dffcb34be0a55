"""What was typed, as Hydra takes it: flags last, paths quoted, folders as the keys they mean."""

import os
import re
from pathlib import Path

from effchal.cli.evaluate_arguments import (
    has_several_decodings,
    models_as_words,
    question_words,
    refuse_questions,
    sweep_over,
)
from effchal.cli.overrides import as_read, check_readable, full_key, key_of, parse_override, quote
from effchal.cli.several_models import are_several, bundles_of, split_base
from effchal.config import Config, ConfigError, load_config
from effchal.config.io import split_weight
from effchal.config.nearest import hint, known_keys
from effchal.config.words import own_words
from effchal.runs import bundle_around, is_bundle

# Hydra's flags that a value follows.
VALUE_FLAGS = {"--cfg", "--package", "--config-path", "--config-name", "--config-dir"}
VALUE_FLAGS |= {"--experimental-rerun", "-c", "-p", "-cp", "-cn", "-cd"}
FLAGS = VALUE_FLAGS | {"--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun"}
FLAGS |= {"--shell-completion", "--info"}
SWEEP_FLAGS = {"-m", "--multirun", "--multi"}
# Other names of flags that say what Hydra does; it does one thing.
ACTIONS = dict.fromkeys(SWEEP_FLAGS, "--multirun") | {"-c": "--cfg", "-i": "--info", "-r": "--run"}
SHOWING = {"--cfg", "--info", "--hydra-help"}  # those that show something and run nothing
INFO_VALUES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# The file by which a folder is known as a run of a command that can go on with it.
RUN_FILES = {"train": "config.yaml", "evaluate": "results.json", "helm": "scores.json"}
RUN_FILES |= {"lm_eval": "lm_eval.json"}
SWEPT = ("evaluate", "lm_eval")  # commands that take several models and decodings
DATA_WORDS = ("show", "diff")  # what may follow `effchal data`
FETCH_WORDS = ("scenarios",)  # and `effchal fetch`: what to fetch; there is nothing else yet
LOG_ONLY = ("serve", "plan", "check", "fetch")  # what they tell is on the screen
SOURCE_PATH = re.compile(r"data_mix\.sources\.([^.]+)\.path")
NEW_KEY = re.compile(  # of a user's own, which no group has
    r"\+{0,2}(?:data_mix\.sources\.[^.=]+\.[^=]+|serve\.adapters(?:\.[^.=]+)?)="
)
RUN_DIRS = ("hydra.run.dir", "hydra.sweep.dir")
PATHS = (
    *(*RUN_DIRS, "base_model", "bundle", "resume_from", "model.name"),
    *("scenario.path", "lm_eval.include_path", "export.folder", "submit.folder"),
    "reproduce.folder",
)


def wants_help(typed: list[str]) -> bool:
    return not {"--help", "-h"}.isdisjoint(typed)


def hydra_arguments(command: str, typed: list[str]) -> list[str]:
    """What was typed, as Hydra takes it: flags last, a folder as the key that it stands for.

    Hydra's parser refuses overrides on both sides of a flag.

    Raises:
        ConfigError: a folder that is not there or that this command cannot use, a word that
            Hydra cannot read, or an output folder inside a bundle.
    """
    flags, words = split_flags(typed)
    asked = set(flags)
    refuse_questions(command, words)
    if command == "data" and words and words[0] in DATA_WORDS:
        words = words[1:] if words[0] == "show" else []  # what `diff` compares is no config
    if command == "fetch" and words and words[0] in FETCH_WORDS:
        words = words[1:]
    check_flags(flags)
    words = own_words(command, words)
    words = models_as_words(words) if command in SWEPT else words
    folders = [word for word in words if is_folder(word)]
    if command in SWEPT and are_several(folders):
        words = sweep_over(bundles_of(folders), [word for word in words if word not in folders])
        flags, folders = [*flags, "--multirun"], []
    elif command in SWEPT and has_several_decodings(words):
        flags = [*flags, "--multirun"]
    if len(folders) > 1:
        raise ConfigError(f"one folder at most, got {' and '.join(folders)}")
    words = [folder_override(command, word) if word in folders else word for word in words]
    is_trained = command == "submit" and any(word.startswith("bundle=") for word in words)
    words = question_words(words) if command == "evaluate" or is_trained else words
    words = model_overrides(data_overrides(words))
    shows = min(actions_of(flags) & SHOWING, default="")
    is_sweep = not SWEEP_FLAGS.isdisjoint(asked if shows else flags)
    for word in words:
        check_readable(word, is_sweep, shows)
    words = resumed(command, words)
    check_output(command, words)
    return [*words, *flags]


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


def actions_of(flags: list[str]) -> set[str]:
    """What the flags tell Hydra to do, by long names: --cfg, --info, --multirun and the like."""
    names = (flag.partition("=")[0] for flag in flags)
    return {ACTIONS.get(name, name) for name in names} & {*SHOWING, *ACTIONS.values()}


def check_flags(flags: list[str]) -> None:
    """Raise ConfigError for `--lr=1e-4`: keys have no dashes."""
    for flag in flags:
        name, _, value = flag.partition("=")
        if name.startswith("--") and not any(known.startswith(name) for known in FLAGS):
            key = name.strip("-").replace("-", "_")
            is_key = key in known_keys(Config)
            meant = f"type {key}={value or '<value>'}" if is_key else hint(key, Config)
            raise ConfigError(f"{name} is no flag, and keys have no dashes; {meant}")


def is_folder(word: str) -> bool:
    """Whether a word is a path: no override, or a path whose name only looks like one."""
    key, equals, _ = word.partition("=")
    if equals:
        return "/" in key and Path(word).expanduser().is_dir()
    return word.startswith("~/") or not word.startswith("~")  # ~key takes a key out of the config


def folder_override(command: str, word: str) -> str:
    """The override that a folder stands for: `resume_from=` for a run to go on with, or `bundle=`.

    Raises:
        ConfigError: no such folder, or not one that this command can use.
    """
    if command in ("train", "plan", "data") and Path(word).expanduser().is_file():
        raise ConfigError(f"{word} is a file; for a data source give data={word}")
    if command == "evaluate" and Path(word).expanduser().is_file():
        raise ConfigError(f"{word} is a file; for questions of your own give data={word}")
    if command not in (*RUN_FILES, "serve", "export", "submit"):
        words = f"{', '.join(DATA_WORDS)} and " if command == "data" else ""
        raise ConfigError(f"{word}: effchal {command} takes no folder, only {words}key=value")
    path = Path(word).expanduser()
    if split_base(word)[0] is not None and command != "train":
        return f"bundle={quote(word)}"
    if not path.is_dir():
        raise ConfigError(f"no folder {word} (from {Path.cwd()})")
    if command == "train":
        path = run_of(command, path)
        if is_bundle(path):
            raise ConfigError(f"{word} is a bundle; give the run folder that it lies in")
    others = [name for name, file in RUN_FILES.items() if (path / file).is_file()]
    if command == "train" and others and others != ["train"]:
        raise ConfigError(f"{word} is a run of effchal {others[-1]}, not of train")
    if command in RUN_FILES and (path / RUN_FILES[command]).is_file():
        return f"resume_from={quote(str(path))}"
    if command == "train":
        raise ConfigError(f"{word} is no run: it has no config.yaml")
    return f"bundle={quote(str(path))}"  # model_source finds the bundle in a run folder


def data_overrides(words: list[str]) -> list[str]:
    """The overrides with paths as they are typed, and keys of sources wherever they may stand.

    `data` alone is the whole mix, so it takes the empty one of conf/data_mix/own.yaml.
    """
    words = [new_key_override(data_override(path_override(full_key(w)))) for w in words]
    keys = set(map(key_of, words))
    if "data" in keys and "data_mix" not in keys:
        return [*words, "data_mix=own"]
    return words


def data_override(word: str) -> str:
    """The override of `data`, with quotes around paths that Hydra would read as something else."""
    key, equals, value = word.partition("=")
    readable, read = as_read(word)
    if not equals or key.lstrip("+") != "data" or read == value:
        return word
    is_list = value.startswith("[") and value.endswith("]") and not Path(value).exists()
    paths = [part.strip() for part in value[1:-1].split(",")] if is_list else [value]
    are_there = all(Path(split_weight(path)[0]).expanduser().exists() for path in paths)
    if not are_there and (readable or (value[:1] in "[{" and not is_list)):
        return word
    quoted = ",".join(map(quote, paths))
    return f"{key}=[{quoted}]" if is_list else f"{key}={quoted}"


def new_key_override(word: str) -> str:
    """A key of a source or an adapter, whether it is there already or not; to_config checks it."""
    return f"++{word.lstrip('+')}" if NEW_KEY.match(word) else word


def model_overrides(words: list[str]) -> list[str]:
    """The words, with those that model.name=<another> implies.

    The default group and an experiment's speak of their own model, so `other` takes their place.
    A group that is typed stays, but for the commit of its own model.
    """
    keys = set(map(key_of, words))
    if "model.name" not in keys or keys & {"bundle", "resume_from"}:  # these bring their own
        return words
    if "model" not in keys:
        return ["model=other", *words]
    return words if "model.revision" in keys else [*words, "model.revision=null"]


def run_of(command: str, folder: Path) -> Path:
    """The run that a folder stands for: a bundle's is the run that it lies in."""
    is_inside = is_bundle(folder) and (folder.absolute().parent / RUN_FILES[command]).is_file()
    return folder.parent if is_inside and folder.parent != folder else folder


def path_override(word: str) -> str:
    """The override of a path, quoted where Hydra would read something else than what is typed."""
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if not equals or (name not in PATHS and not SOURCE_PATH.fullmatch(name)):
        return word
    readable, read = as_read(word)
    if readable and (read == value or not Path(value).expanduser().exists()):
        return word
    return f"{key}={quote(os.path.expanduser(value))}"


def resumed(command: str, words: list[str]) -> list[str]:
    """The words of a command that goes on with a run: in its own folder, so that its log does too.

    Raises:
        ConfigError: a new path of a source that the run does not have.
    """
    folder = next((Path(text) for text in values_of(words, ("resume_from",))), None)
    if folder is None or command not in RUN_FILES:
        return words
    folder = run_of(command, folder)
    if is_bundle(folder) or not (folder / RUN_FILES[command]).is_file():
        return words  # the command says what is wrong
    result = []
    for word in words:
        key = key_of(word)
        source = SOURCE_PATH.fullmatch(key)
        if source is not None:
            sources = load_config(folder / "config.yaml").data_mix.sources
            if source[1] not in sources:
                raise ConfigError(f"{key}: {folder} was trained on no source {source[1]}")
        if key != "resume_from":
            result.append(word)
    return [*result, f"resume_from={quote(str(folder))}", f"hydra.run.dir={quote(str(folder))}"]


def check_output(command: str, words: list[str]) -> None:
    """Raise ConfigError if a command would write into a bundle, which its digests hold."""
    typed = values_of(words, RUN_DIRS)
    for folder in typed or ["."]:
        bundle = bundle_around(Path(folder))
        if bundle is not None and (typed or command not in LOG_ONLY):
            where = folder if typed else "the working directory"
            raise ConfigError(
                f"{where} lies in the bundle {bundle}, which must not change; "
                "give another output folder: hydra.run.dir=<folder>"
            )


def values_of(words: list[str], keys: tuple[str, ...]) -> list[str]:
    """The texts that the words give to these keys."""
    values = (parse_override(word).value() for word in words if word.partition("=")[0] in keys)
    return [str(value).replace("\\${", "${") for value in values]
