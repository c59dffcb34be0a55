"""What a request asks of decoding, and the next token out of scores."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from effchal.decode.layers import Contrast

GREEDY_AT_OR_BELOW = 1e-6  # HELM writes temperature 0 as 1e-7
LIKELIEST = 512  # tokens that top_p looks at first


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

    Only as many of V are sorted as top_p needs, 512 at least; nothing without top_p and top_k.

    Raises:
        FloatingPointError: no probability is a number.
    """
    probs = (logprobs / params.temperature).softmax(-1)
    total = float(probs.sum())
    if not math.isfinite(total):
        raise FloatingPointError("the model's logits are not finite")
    # A race: each token as often first as it is likely. Rounding changes who wins only where two are about even, where
    # cumulative sums would move every border behind a likely token.
    time = torch.empty_like(probs).exponential_(generator=generator)
    if params.top_k is None and params.top_p == 1.0:
        return int((probs / time).argmax())
    vocabulary = len(probs)
    count = min(LIKELIEST if params.top_k is None else params.top_k, vocabulary)
    while True:
        best, ids = probs.topk(count)
        of = total if params.top_k is None else float(best.sum())  # top_p is a share of what top_k leaves
        before = best.cumsum(-1) - best
        # Keep the token that crosses top_p: what comes before it is below top_p. The first stays in any case,
        # also where a tiny top_p is 0 in float32.
        kept = max(1, int((before < params.top_p * of).sum()))
        if kept < count or params.top_k is not None or count == vocabulary:
            return int(ids[(best[:kept] / time[ids[:kept]]).argmax()])
        count = min(8 * count, vocabulary)
