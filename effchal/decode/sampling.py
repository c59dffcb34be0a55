"""What a request asks of decoding, and the next token out of scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from effchal.decode.layers import Contrast

GREEDY_AT_OR_BELOW = 1e-6  # HELM writes temperature 0 as 1e-7


@dataclass(frozen=True)
class SamplingParams:
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None  # sample among the k likeliest
    stops: tuple[str, ...] = ()
    first_line: bool = False  # end at the first line break after some text
    alternatives: int = 0  # likeliest tokens reported at each position
    echo_from: int | None = None  # report the prompt from this position on, with its log-probabilities
    seed: int | None = None  # None: a fresh one
    contrast: Contrast = None  # how scores come out of layers
    contrast_prompt: bool = False  # the echoed prompt's log-probabilities too
    repetition_penalty: float = 1.0  # after the contrast

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= GREEDY_AT_OR_BELOW


def sample(logprobs: Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """A draw from (V,) log-probabilities within top_k and top_p at the temperature.

    Raises:
        FloatingPointError: no probability is a number.
    """
    probs, ids = (logprobs / params.temperature).softmax(-1).sort(descending=True)
    if not torch.isfinite(probs[0]):
        raise FloatingPointError("the model's logits are not finite")
    if params.top_k is not None:
        probs[params.top_k :] = 0.0
    # Keep the token that crosses top_p: what comes before it is below top_p. The first stays in any case,
    # also where a tiny top_p is 0 in float32.
    before = probs.cumsum(-1) - probs
    before[0] = -1.0
    probs[before >= params.top_p * probs.sum()] = 0.0
    return int(ids[torch.multinomial(probs, 1, generator=generator)])
