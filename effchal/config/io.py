"""What to say of a key that the schema does not know: the nearest one that it does."""

import difflib
from dataclasses import fields, is_dataclass
from typing import get_args, get_origin

from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException


def explain(error: BaseException, schema: type) -> str:
    """One line for a user out of an error of Hydra or OmegaConf and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and cause.full_key:
            return f"unknown key {cause.full_key}; the nearest known key is {nearest_key(cause.full_key, schema)}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return f"{cause.full_key}: {str(cause).splitlines()[0]}"
        cause = cause.__cause__ or cause.__context__
    return str(error)


def nearest_key(unknown: str, schema: type) -> str:
    """The known dotted key most like `unknown`, by its siblings first."""
    keys = known_keys(schema)
    parent = unknown.rpartition(".")[0]
    siblings = [key for key in keys if parent and _matches(key.rpartition(".")[0], parent)]
    last = {key.rpartition(".")[2]: key for key in siblings or keys}
    matches = difflib.get_close_matches(unknown.rpartition(".")[2], last, n=1, cutoff=0.0)
    return last[matches[0]]


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Dotted names of every key of a dataclass, the ones inside it included."""
    keys = []
    for item in fields(schema):
        options = get_args(item.type) or (item.type,)  # `LoraConfig | None` -> LoraConfig, None
        nested = [option for option in options if is_dataclass(option)]
        if nested:  # the names of a dict are free: <name> stands for them
            free = "<name>." if get_origin(item.type) is dict else ""
            keys += known_keys(nested[0], f"{prefix}{item.name}.{free}")
        keys.append(prefix + item.name)
    return keys


def _matches(pattern: str, parent: str) -> bool:
    parts, found = pattern.split("."), parent.split(".")
    return len(parts) == len(found) and all(
        a in (b, "<name>") for a, b in zip(parts, found, strict=True)
    )
