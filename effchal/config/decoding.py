"""The schema of decoding.*, which a bundle, an evaluation and (where allowed) a request may set."""

from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

from effchal.config.choices import DecodingMethod, Selector
from effchal.config.errors import SHARE, Bound, ConfigError, require, require_keys, shown
from effchal.config.nearest import hint

Layers = Any  # "low", "high" or a list of ints; OmegaConf knows no union of these


@dataclass
class DecodingConfig:
    """How tokens are chosen from logits. In serving, a request may say otherwise."""

    # How the next token is chosen.
    method: DecodingMethod = DecodingMethod.greedy
    # For method=sample only.
    temperature: float = 1.0
    # Sample from the most likely tokens that add up to this probability. For method=sample only.
    top_p: float = 1.0
    # [tokens] Longest answer where the request gives no limit.
    max_new_tokens: int = 128
    # Divides the scores of tokens already seen in prompt and answer, after the contrast. 1 = off.
    repetition_penalty: float = 1.0
    # Layers to contrast with, for dola and sled: low, high or a list. Layer i is hidden_states[i]:
    # 0 is the embeddings, N - 1 the last one before the mature layer N.
    premature_layers: Layers = None
    # How dola chooses the layer for each position.
    selector: Selector = Selector.jsd
    # For dola: keep tokens with at least this share of the best token's probability. 0 = keep all.
    relative_top: float = 0.1
    # [tokens] For dola: keep at least so many.
    min_tokens_to_keep: int = 1
    # Apply the final norm to premature layers too. The published code does not.
    exit_norm: bool = False
    # For dola: score continuations by probabilities that sum to 1.
    post_softmax: bool = True
    # End answers at the first line break where a request names no stop sequence. HELM expects this
    # of multiple choice.
    end_at_first_line: bool = False
    # Score an echoed prompt by the contrast, not by the base model.
    contrast_prompt: bool = False
    # For sled: step size along the contrast.
    sled_rate: float = 1.0
    # [tokens] For sled: how many of the most likely tokens move. All others are dropped.
    sled_top_k: int = 10

    def __post_init__(self) -> None:
        temperature = Bound("above 0 and at most 100; for 0 use decoding=greedy", up_to_100)
        require_keys(self, "decoding", temperature, "temperature")
        require_keys(self, "decoding", Bound("in (0, 1]", lambda p: 0 < p <= 1), "top_p")
        counts = ("max_new_tokens", "min_tokens_to_keep", "sled_top_k")
        require_keys(self, "decoding", Bound("in 1..2147483647", is_count), *counts)
        penalty = Bound("in [0.01, 100]", lambda p: 0.01 <= p <= 100)
        require_keys(self, "decoding", penalty, "repetition_penalty")
        require_keys(self, "decoding", SHARE, "relative_top")
        require_keys(self, "decoding", Bound("in [0, 100]", lambda r: 0 <= r <= 100), "sled_rate")
        key, layers = "decoding.premature_layers", self.premature_layers
        if layers is not None or self.method.contrasts_layers:
            require_layers(key, layers)
        if self.selector is Selector.static and self.method is DecodingMethod.dola:
            one = layers not in ("low", "high") and len(layers) == 1
            require(one, key, layers, "a list of one layer where decoding.selector=static")


def up_to_100(value: float) -> bool:
    return 0 < value <= 100


def is_count(value: int) -> bool:
    return 1 <= value < 2**31


def require_layers(key: str, value: Any) -> None:
    """Raise ConfigError unless value is low, high or a list of distinct layers."""
    ok = value in ("low", "high")
    if isinstance(value, list) and value:
        ok = all(type(i) is int and i >= 0 for i in value) and len(set(value)) == len(value)
    require(ok, key, value, "low, high or a list of distinct layers, e.g. [16,18,20]")


def change_decoding(decoding: DecodingConfig, changes: dict[str, Any]) -> DecodingConfig:
    """`decoding` with some keys changed; None changes nothing. "5" is no number.

    Raises:
        ConfigError: unknown key, wrong type, or values that do not go together.
    """
    kinds = {item.name: item.type for item in fields(DecodingConfig)}
    unknown = next((shown(key[:60])[1:-1] for key in changes if key not in kinds), None)
    if unknown is not None:
        raise ConfigError(f"unknown key {unknown}; {hint(unknown, DecodingConfig)}")
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(decoding, **{key: typed(key, kinds[key], given[key]) for key in given})


def typed(key: str, kind: Any, value: Any) -> Any:
    """`value`, or the choice that it names; ConfigError where it has another type."""
    if kind is Layers:  # DecodingConfig checks them
        return list(value) if isinstance(value, tuple) else value
    if isinstance(value, Enum):
        value = value.name
    if issubclass(kind, Enum):
        names = list(kind.__members__)
        ok, allowed = isinstance(value, str) and value in names, f"one of {', '.join(names)}"
        value = kind[value] if ok else value
    elif kind is float:
        ok, allowed = type(value) in (int, float), "a number"
    else:
        ok, allowed = type(value) is kind, {int: "a whole number", bool: "true or false"}[kind]
    require(ok, f"decoding.{key}", value, allowed)
    return value
