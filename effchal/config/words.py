"""What a command takes beside keys of the config, as the overrides that it stands for."""

import re
from dataclasses import fields
from typing import Any, get_origin

from effchal.config.conformance import ConformanceConfig
from effchal.config.export import ExportConfig
from effchal.config.lm_eval import LmEvalConfig
from effchal.config.submission import ReproduceConfig, SubmitConfig

# Commands whose own keys may be typed without their group, which has the command's name.
GROUPS: dict[str, type[Any]] = {
    "conformance": ConformanceConfig,
    "export": ExportConfig,
    "lm_eval": LmEvalConfig,
    "reproduce": ReproduceConfig,
    "submit": SubmitConfig,
}
LIST = "list"  # the word that shows the checks of conformance


def own_words(command: str, words: list[str]) -> list[str]:
    """The words of a command, with its own keys in their group: `to=merged` is export.to=merged."""
    return [own_override(command, word) for word in words] if command in GROUPS else words


def own_override(command: str, word: str) -> str:
    """One word, as the override that it stands for. Keys of an option that is a dict are free."""
    word = keyed(command, word)
    option = word.removeprefix(f"{command}.")
    key, equals, _ = option.partition("=")
    name, dot, _ = key.partition(".")
    types = {each.name: get_origin(each.type) for each in fields(GROUPS[command])}
    is_dict = types.get(name) is dict
    if not equals or name not in types or (dot and not is_dict):
        return word
    force = "++" if is_dict else ""  # whether the key is there already or not
    return f"{force}{command}.{option}"


def keyed(command: str, word: str) -> str:
    """With its key, where a command takes a word that has none, or a list without brackets."""
    if command == "reproduce" and "=" not in word and not word.startswith("~"):
        return f"folder={word}"
    if command == "conformance" and word == LIST:
        return "show_checks=true"
    if command == "conformance" and re.match("https?://", word):
        return f"url='{word}'"
    if command == "conformance" and re.match(r"only=(?!\[)", word):
        return f"only=[{word.removeprefix('only=')}]"
    return word
