"""What to say about a key that the schema does not know: its new name, or the key meant."""

import difflib
import re
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin

from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from effchal.config.peers import PEERS

# Keys of version 0.1. Saved files may have them; typed, they are an error that names the new key.
RENAMED = {
    "data_mix.heldout_fraction": "data_mix.validation_fraction",
    "budget.side_work_share": "budget.periodic_work_share",
    "train.loss_on_prompt": "train.loss_on",
}
RENAMED_VALUES = {"train.loss_on_prompt": {True: "all", False: "answers"}}
# Keys that are left out of saved files; typed, they are an error that says why.
REMOVED = {"model.attention": "torch's own kernels are the one way to compute attention"}
# Of difflib's ratio; below it a suggestion would be a guess. Higher where more keys are compared.
ALIKE_IN_GROUP, ALIKE, ALIKE_PEER = 0.75, 0.8, 0.88
LONG = 7  # characters; a shorter word is like many


def explain(error: BaseException, schema: type, tree: Any = None) -> str:
    """One line for a user, from an error of Hydra or OmegaConf and its causes.

    Args:
        tree: of plain dicts, what was to become a config.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return wrong_choice(str(error.missing_cfg_file), list(error.options))
    if isinstance(error, AssertionError):
        return (
            "a key was given below lora or rules, and that group is none; leave the key out, or "
            "choose a file of the group, e.g. lora=all_linear, rules=neurips_2023"
        )
    typed = re.match(r"Could not override '([^']+)'", str(error))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and cause.full_key:
            key = typed[1] if typed else whole_key(cause.full_key, tree)
            return f"unknown key {key}; {hint(key, schema)}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return f"{cause.full_key}: {str(cause).splitlines()[0]}"
        cause = cause.__cause__ or cause.__context__
    return str(error)


def wrong_choice(missing: str, names: list[str]) -> str:
    """What to say of a file `<group>/<name>` that conf/ lacks."""
    group, _, name = missing.partition("/")
    others = {
        "model": "; another model is model.name=<hub id or folder>",
        "data_mix": "; other data is data=<file or data set id>",
        "lora": "; other layers are lora.target_modules=[<names>]",
    }
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, 1, ALIKE)
    meant = f"; did you mean {group}={near[0]}?" if near else others.get(group, "")
    return f"no {group}={name}; its names are {', '.join(names)}{meant}"


def whole_key(key: str, tree: Any) -> str:
    """The key down to its value: OmegaConf names the first part that it does not know."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    while isinstance(tree, dict) and len(tree) == 1:
        ((part, tree),) = tree.items()
        key = f"{key}.{part}"
    return key


def hint(unknown: str, schema: type) -> str:
    """What is known of a key: its name here, or the keys of its group where none is close."""
    if unknown in RENAMED:
        return f"it is {RENAMED[unknown]} now"
    if unknown in REMOVED:
        return f"leave it out: {REMOVED[unknown]}"
    keys, name = known_keys(schema), _last(unknown)
    word = name.lower().replace("-", "_")
    peers = PEERS if any("." in key for key in keys) else {}  # they speak of the whole schema
    told = peers.get(unknown) or peers.get(word)
    if told:
        return told
    same = [key for key in keys if _last(key) == name]
    nearest = nearest_key(unknown, keys, same)
    if nearest:
        return f"the nearest known key is {nearest}"
    if same:
        return f"known keys of that name: {', '.join(same)}"
    close = difflib.get_close_matches(word, peers, 1, ALIKE_PEER)
    if close and len(word) >= LONG:
        return peers[close[0]]
    siblings = _siblings(unknown, keys) or [key for key in keys if "." not in key]
    return f"known keys here: {', '.join(_last(key) for key in siblings)}"


def nearest_key(unknown: str, keys: list[str], same: list[str]) -> str | None:
    """The key of which `unknown` is a misspelling: in its own group, of a misspelt one, or any.

    Args:
        same: keys of the same name in other groups; one alone is meant.
    """
    siblings, name = _siblings(unknown, keys), _last(unknown).lower()
    whole = {} if siblings else {key: key for key in keys if "." in key}
    one = {name: same[0]} if len(same) == 1 else {}
    last = {_last(key): key for key in reversed(keys)}  # of two, the first is kept
    for word, among, alike in (
        (name, {_last(key): key for key in siblings}, ALIKE_IN_GROUP),
        (name, one, 1.0),
        (unknown, whole, ALIKE),
        (name, {} if same else last, ALIKE),
    ):
        close = difflib.get_close_matches(word, among, 1, alike)
        if close:
            return among[close[0]]
    return None


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Dotted names of every key of a dataclass, those of the dataclasses inside it included."""
    keys = []
    for item in fields(schema):
        inner = nested(item.type)
        if inner is not None:  # a dict's names are free: <name> stands for them
            free = "<name>." if get_origin(item.type) is dict else ""
            keys += known_keys(inner, f"{prefix}{item.name}.{free}")
        keys.append(prefix + item.name)
    return keys


def nested(annotation: Any) -> type | None:
    """The dataclass in a field's type, e.g. LoraConfig of `LoraConfig | None`; None without one."""
    options = get_args(annotation) or (annotation,)
    found = (option for option in options if isinstance(option, type) and is_dataclass(option))
    return next(found, None)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _siblings(unknown: str, keys: list[str]) -> list[str]:
    parent = unknown.rpartition(".")[0]
    return [key for key in keys if parent and _matches(key.rpartition(".")[0], parent)]


def _matches(pattern: str, parent: str) -> bool:
    parts, found = pattern.split("."), parent.split(".")
    return len(parts) == len(found) and all(
        a in (b, "<name>") for a, b in zip(parts, found, strict=True)
    )
