"""Several models after `effchal evaluate`, and the base model of a bundle as one of them."""

from collections.abc import Sequence
from pathlib import Path

from effchal.config import ConfigError, load_config
from effchal.runs import is_bundle

BASE, BASE_PLAIN = "base", "base_plain"  # with the bundle's prompt template; with the plain one


def split_base(text: str) -> tuple[str | None, str]:
    """(`base` or `base_plain`, folder) of `base:<folder>`; (None, the text) of any other."""
    kind, colon, folder = text.partition(":")
    return (kind, folder) if colon and kind in (BASE, BASE_PLAIN) else (None, text)


def resumed_bundle(bundle: str | None) -> str | None:
    """The bundle to go on with. None for `base:<folder>`: the run's config has that base model."""
    return None if bundle is None or split_base(bundle)[0] is not None else bundle


def are_several(words: Sequence[str]) -> bool:
    return len(words) > 1 or any(word in (BASE, BASE_PLAIN) for word in words)


def bundles_of(words: Sequence[str]) -> list[str]:
    """Values of `bundle` for what was typed: folders, `base`, `base_plain`, `base:<folder>`.

    Raises:
        ConfigError: a folder that is no model, one twice, or a `base` that may be several.
    """
    found = [_value(word, words) for word in words]
    twice = next((word for word in found if found.count(word) > 1), None)
    if twice:
        raise ConfigError(f"{twice} is there twice; give each model once")
    return found


def _value(word: str, words: Sequence[str]) -> str:
    if word in (BASE, BASE_PLAIN):
        if Path(word).exists():
            raise ConfigError(f"{word} is also a folder here; type ./{word}, or {word}:<run>")
        return f"{word}:{_whose_base(word, words)}"
    kind, text = split_base(word)
    folder = str(Path(text).expanduser())
    _config_folder(folder)
    return folder if kind is None else f"{kind}:{folder}"


def _whose_base(word: str, words: Sequence[str]) -> str:
    """The folder whose base model is meant: the first of them, if all have the same one."""
    typed = [split_base(each)[1] for each in words if each not in (BASE, BASE_PLAIN)]
    folders = [str(Path(each).expanduser()) for each in typed]
    if not folders:
        raise ConfigError(f"{word} of which run? effchal evaluate {word} outputs/train/<run>")
    configs = [load_config(_config_folder(folder) / "config.yaml") for folder in folders]
    for config, folder in zip(configs, folders, strict=True):
        for key in ("model", "prompt") if word == BASE else ("model",):
            if getattr(config, key) != getattr(configs[0], key):
                raise ConfigError(
                    f"{word} could be that of {folders[0]} or of {folder}, whose {key}.* differ; "
                    f"type {word}:<folder>"
                )
    return folders[0]


def _config_folder(folder: str) -> Path:
    """The bundle of a folder. Raises ConfigError if there is none."""
    path = Path(folder)
    for each in (path, path / "bundle"):
        if is_bundle(each):
            return each
    if not path.is_dir():
        raise ConfigError(f"no folder {folder} (from {Path.cwd()})")
    if any((path / name).is_file() for name in ("results.json", "scores.json")):
        raise ConfigError(f"{folder} is an evaluation, no model; effchal compare takes evaluations")
    raise ConfigError(f"{folder} is neither a bundle nor a run folder with a finished bundle")
