"""The schema of decoding.*, which a bundle, an evaluation and (where allowed) a request may set."""

import math
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from effchal.config.choices import DecodingMethod, Selector
from effchal.config.errors import ConfigError, require
from effchal.config.io import explain


@dataclass
class DecodingConfig:
    """How tokens come out of logits, for evaluation, and for serving where a request does not say otherwise."""

    method: DecodingMethod = DecodingMethod.greedy
    temperature: float = 1.0  # sample only
    top_p: float = 1.0  # sample only
    max_new_tokens: int = 128
    repetition_penalty: float = 1.0  # 1 = none; after the contrast, over prompt and answer
    # dola and sled only: low, high or a list of layers i, hidden_states[i] of 0 (embeddings) .. N-1
    premature_layers: Any = None
    selector: Selector = Selector.jsd  # dola: which layer each position is contrasted with
    relative_top: float = (
        0.1  # dola: keep tokens with at least this share of the best one's probability; 0 = all
    )
    min_tokens_to_keep: int = 1  # dola
    exit_norm: bool = False  # put the final norm before the head for premature layers, too; published code does not
    post_softmax: bool = True  # dola: score continuations by probabilities that sum to 1
    end_at_first_line: bool = (
        False  # end answers there where a request names no stop sequence (HELM: multiple choice)
    )
    contrast_prompt: bool = False  # score an echoed prompt by the contrast, not by the plain model
    sled_rate: float = 1.0  # step along the contrast
    sled_top_k: int = 10  # likeliest tokens that move; all others are dropped

    def __post_init__(self) -> None:
        require(
            0 < self.temperature < math.inf,
            "decoding.temperature",
            self.temperature,
            "above 0; for 0 use decoding=greedy",
        )
        require(0 < self.top_p <= 1, "decoding.top_p", self.top_p, "in (0, 1]")
        for key in ("max_new_tokens", "min_tokens_to_keep", "sled_top_k"):
            require(getattr(self, key) >= 1, f"decoding.{key}", getattr(self, key), "at least 1")
        finite = 0 < self.repetition_penalty < math.inf
        require(
            finite, "decoding.repetition_penalty", self.repetition_penalty, "above 0 and finite"
        )
        require(
            0 <= self.relative_top <= 1, "decoding.relative_top", self.relative_top, "in [0, 1]"
        )
        require(
            0 <= self.sled_rate < math.inf,
            "decoding.sled_rate",
            self.sled_rate,
            "at least 0 and finite",
        )
        if self.method in (DecodingMethod.dola, DecodingMethod.sled):
            require_layers("decoding.premature_layers", self.premature_layers)
            many = self.premature_layers in ("low", "high") or len(self.premature_layers) > 1
            if self.selector is Selector.static and self.method is DecodingMethod.dola:
                key = "decoding.premature_layers"
                require(
                    not many,
                    key,
                    self.premature_layers,
                    "a list of one layer where decoding.selector=static",
                )


def require_layers(key: str, value: Any) -> None:
    """Raise ConfigError unless value is low, high or a list of distinct layers."""
    is_list = isinstance(value, list) and value and all(type(i) is int and i >= 0 for i in value)
    ok = value in ("low", "high") or (is_list and len(set(value)) == len(value))
    require(ok, key, value, "low, high or a list of distinct layers, e.g. [16,18,20]")


def change_decoding(decoding: DecodingConfig, changes: dict[str, Any]) -> DecodingConfig:
    """`decoding` with some keys changed.

    Raises:
        ConfigError: unknown key, wrong type, or values that do not go together.
    """
    if "${" in repr(
        changes
    ):  # OmegaConf would look up what it names, an environment variable perhaps
        raise ConfigError("decoding takes plain values")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(decoding), changes))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, DecodingConfig)) from error
