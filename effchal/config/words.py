"""What a command takes beside keys of the config, as the overrides that it stands for."""

from collections.abc import Callable

from effchal.config.conformance import conformance_override
from effchal.config.export import option_override as export_override
from effchal.config.lm_eval import option_override as lm_eval_override
from effchal.config.submission import reproduce_override, submit_override

OVERRIDE_OF: dict[str, Callable[[str], str]] = {
    "conformance": conformance_override,
    "export": export_override,
    "lm_eval": lm_eval_override,
    "reproduce": reproduce_override,
    "submit": submit_override,
}


def own_words(command: str, words: list[str]) -> list[str]:
    """The words of a command, with its own keys in their group: `to=merged` is export.to=merged."""
    return [OVERRIDE_OF[command](word) for word in words] if command in OVERRIDE_OF else words
