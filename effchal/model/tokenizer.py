"""The tokenizer and the folder of a base model. Nothing here imports torch."""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import re
import secrets
import sys
import warnings
from pathlib import Path
from typing import Any, cast

from effchal.config import ConfigError, ModelConfig
from effchal.model.tiny import TINY, tiny_folder
from effchal.tracking.lines import adopt_libraries

log = logging.getLogger(__name__)


class ModelError(ConfigError):
    """A model that cannot be loaded. The message names model.name and the remedy."""


def base_model_path(cfg: ModelConfig) -> str:
    """Local folder or hub id to load from, checked before anything heavy starts.

    Raises:
        ModelError: a missing folder, or a hub id without a revision.
    """
    if cfg.name == TINY:
        return str(tiny_folder())
    require_folder(cfg)
    if is_hub_id(cfg.name) and cfg.revision is None:
        raise ModelError(
            f"model.name={cfg.name} is a hub id and needs model.revision=<commit>, "
            "to be reproducible"
        )
    return cfg.name


def require_folder(cfg: ModelConfig) -> None:
    """Raise ModelError for the name of a folder that is not there, which takes no time."""
    if cfg.name == TINY or Path(cfg.name).is_dir() or is_hub_id(cfg.name):
        return
    hint = "check the path"
    if cfg.name.endswith("smollm2_135m"):
        hint = "run `python scripts/fetch.py smollm2_135m`"
    raise ModelError(
        f"model.name: no folder {cfg.name} (from {Path.cwd()}); {hint}, or give model.name=<folder>"
    )


def is_hub_id(name: str) -> bool:
    """Whether a name can only be one of the hub: no folder of this machine."""
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    return not (name == TINY or looks_local or Path(name).is_dir())


def pin_revision(cfg: ModelConfig) -> None:
    """Set cfg.revision, where a hub id has none, to the newest commit of its main branch.

    Raises:
        ModelError: the hub cannot be reached, or has no such model.
    """
    if cfg.revision is not None or not is_hub_id(cfg.name):
        return
    from transformers.utils import cached_file

    with loading(cfg):
        config_file: Any = cached_file(cfg.name, "config.json")
    cfg.revision = Path(config_file).parent.name  # <cache>/snapshots/<commit>/config.json
    log.warning(
        "model.revision was not given; to repeat this with the same model, add model.revision=%s",
        cfg.revision,
    )


def quiet_libraries() -> None:
    """Keep the libraries' own progress bars and remarks out of the log."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    adopt_libraries()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it lacks a CPU kernel
    peft_message = ".*is_gradient_checkpointing.*"
    warnings.filterwarnings("ignore", message=peft_message, category=FutureWarning)


@contextlib.contextmanager
def loading(cfg: ModelConfig):
    try:
        yield
    except PermissionError as error:
        raise ModelError(
            f"model.name={cfg.name}: may not read {error.filename}; chmod -R a+rX {cfg.name}"
        ) from error
    except (OSError, ValueError) as error:  # transformers': missing, gated, unreachable, malformed
        raise ModelError(
            f"cannot load model.name={cfg.name} at revision {cfg.revision or 'main'}: "
            f"{' '.join(str(error).split())[:400]} "
            "(with the files in a local folder: model.name=<folder>)"
        ) from error


def load_tokenizer(cfg: ModelConfig) -> Any:
    """The fast tokenizer, with a pad token; from tokenizer.json, never from tokenizer.model.

    Raises:
        ModelError: no tokenizer.json, or no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    quiet_libraries()
    path = base_model_path(cfg)
    if Path(path).is_dir() and not (Path(path) / "tokenizer.json").is_file():
        raise ModelError(
            f"model.name: {path} has no tokenizer.json; without it runs of spaces are mis-tokenized"
        )
    with loading(cfg):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=cfg.revision)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of model.name={cfg.name} has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only fills rows; it is never a target
    return tokenizer


def tokenizer_fingerprint(cfg: ModelConfig) -> str:
    """What the ids of a text depend on: versions, and digests of files or a commit of the hub."""
    versions = [importlib.metadata.version(name) for name in ("tokenizers", "transformers")]
    folder = Path(base_model_path(cfg))
    if not folder.is_dir():
        is_commit = re.fullmatch("[0-9a-f]{40}", cfg.revision or "")
        moves = "" if is_commit else secrets.token_hex()  # a branch may, so it is like no other
        return f"{cfg.name} {cfg.revision} {versions} {moves}"
    digest = hashlib.sha256(str(versions).encode())
    for pattern in ("*token*", "chat_template*", "config.json"):
        for path in filter(Path.is_file, sorted(folder.glob(pattern))):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def hide_torch() -> None:
    """Let transformers do without torch in this process, which then can load tokenizers only.

    They are the same ones, and importing torch takes longer than all else.
    """
    sys.modules.setdefault("torch", cast(Any, None))  # what `import` takes for a missing package
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would remark on that
