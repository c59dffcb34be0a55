"""The schema of decoding.*, which a bundle, an evaluation and (where allowed) a request may set."""

from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from effchal.config.choices import DecodingMethod, Selector
from effchal.config.errors import (
    AT_LEAST_1,
    FINITE,
    FINITE_ABOVE_0,
    SHARE,
    Bound,
    ConfigError,
    require,
    require_keys,
)
from effchal.config.nearest import explain, hint

MOST_LAYERS = 200  # in a list that a request sends; OmegaConf takes seconds for very many
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
        temperature = Bound("above 0; for 0 use decoding=greedy", FINITE_ABOVE_0.holds)
        require_keys(self, "decoding", temperature, "temperature")
        require_keys(self, "decoding", Bound("in (0, 1]", lambda p: 0 < p <= 1), "top_p")
        counts = ("max_new_tokens", "min_tokens_to_keep", "sled_top_k")
        require_keys(self, "decoding", AT_LEAST_1, *counts)
        require_keys(self, "decoding", FINITE_ABOVE_0, "repetition_penalty")
        require_keys(self, "decoding", SHARE, "relative_top")
        require_keys(self, "decoding", FINITE, "sled_rate")
        if self.method in (DecodingMethod.dola, DecodingMethod.sled):
            key, layers = "decoding.premature_layers", self.premature_layers
            require_layers(key, layers)
            if self.selector is Selector.static and self.method is DecodingMethod.dola:
                one = layers not in ("low", "high") and len(layers) == 1
                require(one, key, layers, "a list of one layer where decoding.selector=static")


def require_layers(key: str, value: Any) -> None:
    """Raise ConfigError unless value is low, high or a list of distinct layers."""
    ok = value in ("low", "high")
    if isinstance(value, list) and value:
        ok = all(type(i) is int and i >= 0 for i in value) and len(set(value)) == len(value)
    require(ok, key, value, "low, high or a list of distinct layers, e.g. [16,18,20]")


def change_decoding(decoding: DecodingConfig, changes: dict[str, Any]) -> DecodingConfig:
    """`decoding` with some keys changed.

    Raises:
        ConfigError: unknown key, wrong type, or values that do not go together.
    """
    known = {field.name for field in fields(DecodingConfig)}
    for key, value in changes.items():
        if key not in known:
            raise ConfigError(f"unknown key {key[:40]}; {hint(key[:40], DecodingConfig)}")
        if isinstance(value, dict) or (isinstance(value, list) and len(value) > MOST_LAYERS):
            require(False, key, type(value), f"a value or a list of at most {MOST_LAYERS}")
    # OmegaConf would resolve an interpolation, and so give away an environment variable.
    if "${" in repr(changes):
        raise ConfigError("decoding takes plain values")
    try:
        changed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(decoding), changes))
        return changed
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, DecodingConfig)) from error
