"""What to say about a key that the schema does not know: its new name, or the key meant."""

import difflib
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin

from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

# Keys of version 0.1. Saved files may have them; typed, they are an error that names the new key.
RENAMED = {
    "data_mix.heldout_fraction": "data_mix.validation_fraction",
    "budget.side_work_share": "budget.periodic_work_share",
    "train.loss_on_prompt": "train.loss_on",
}
RENAMED_VALUES = {"train.loss_on_prompt": {True: "all", False: "answers"}}
# What other programs call our keys.
SYNONYMS = {
    "train.lr": "learning_rate",
    "train.epochs": "num_epochs num_train_epochs n_epochs",
    "train.max_steps": "steps num_steps max_iters",
    "train.examples_per_step": "global_batch_size gradient_accumulation_steps",
    "train.micro_batch_size": "batch_size per_device_train_batch_size",
    "train.optimizer": "optim",
    "train.schedule": "scheduler lr_scheduler lr_scheduler_type",
    "train.warmup_steps": "warmup warmup_ratio",
    "train.max_grad_norm": "grad_clip gradient_clipping clip",
    "train.activation_checkpointing": "gradient_checkpointing",
    "train.validate_every": "eval_steps eval_every",
    "train.checkpoint_every": "save_steps save_every",
    "model.name": "model_name model_name_or_path pretrained",
    "model.dtype": "torch_dtype precision bf16 fp16",
    "model.quantization": "load_in_4bit",
    "model.max_seq_len": "max_length max_seq_length seq_len context_length",
    "data": "dataset datasets train_file data_path data_files",
    "data_mix.validation_fraction": "val_fraction validation_split test_size",
    "lora.r": "rank lora_r lora_rank",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "decoding.max_new_tokens": "max_tokens",
    "bundle": "checkpoint adapter",
}
ALIKE = 0.6  # of difflib's ratio; below it a suggestion would be a guess


def explain(error: BaseException, schema: type) -> str:
    """One line for a user, from an error of Hydra or OmegaConf and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and cause.full_key:
            return f"unknown key {cause.full_key}; {hint(cause.full_key, schema)}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return f"{cause.full_key}: {str(cause).splitlines()[0]}"
        cause = cause.__cause__ or cause.__context__
    return str(error)


def hint(unknown: str, schema: type) -> str:
    """The key that was probably meant, or all keys of its group where none is close."""
    if unknown in RENAMED:
        return f"it is {RENAMED[unknown]} now"
    nearest = nearest_key(unknown, schema)
    if nearest is not None:
        return f"the nearest known key is {nearest}"
    keys = known_keys(schema)
    siblings = _siblings(unknown, keys) or [key for key in keys if "." not in key]
    return f"known keys here: {', '.join(_last(key) for key in siblings)}"


def nearest_key(unknown: str, schema: type) -> str | None:
    """The known dotted key that `unknown` probably means, looked for in its own group first."""
    keys, name = known_keys(schema), _last(unknown)
    meant = [key for key, others in SYNONYMS.items() if key in keys and name in others.split()]
    for among in (_siblings(unknown, keys), keys):
        exact = [key for key in among if key in meant] or [k for k in among if _last(k) == name]
        if exact:
            return exact[0]
        last = {_last(key): key for key in reversed(among)}  # of two, the first is kept
        close = difflib.get_close_matches(name, last, n=1, cutoff=ALIKE)
        if close:
            return last[close[0]]
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
