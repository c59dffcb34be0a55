"""What a request asks of decoding, and the next token out of log-probabilities."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from effchal.decoding.contrast import Contrast, Greedy

GREEDY_AT_OR_BELOW = 1e-6  # HELM writes temperature 0 as 1e-7
GREEDY = Greedy()
SORTED_FIRST = 512  # tokens that top_p looks at before it looks at more


@dataclass(frozen=True)
class SamplingParams:
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None  # sample among the k most probable tokens
    min_p: float = 0.0  # sample among tokens with this share of the best one's probability
    stops: tuple[str, ...] = ()
    first_line: bool = False  # end at the first line break after some text
    alternatives: int = 0  # most probable tokens reported at each position
    echo_from: int | None = None  # report the prompt's log-probabilities from this position on
    seed: int | None = None  # None: a fresh one
    contrast: Contrast = GREEDY  # how scores come out of layers
    contrast_prompt: bool = False  # the echoed prompt's log-probabilities too
    repetition_penalty: float = 1.0  # after the contrast
    ignore_eos: bool = False  # an end token is a token like others

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= GREEDY_AT_OR_BELOW


def penalise_repetition(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less attractive: divide positive scores by the penalty, multiply others.

    After a contrast scores are mostly positive, so a penalty of 1.2 costs a confident token much.

    Args:
        scores: (..., V).
        seen: (..., V) bool.
        penalty: 1.0 changes nothing.
    """
    penalised = torch.where(scores > 0, scores / penalty, scores * penalty)
    return torch.where(seen, penalised, scores)


def sample(logprobs: Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """A draw from (V,) log-probabilities within min_p, top_k and top_p at the temperature.

    Raises:
        FloatingPointError: no probability is a number.
    """
    probs = (logprobs / params.temperature).softmax(-1)
    if not torch.isfinite(probs.sum()):
        raise FloatingPointError("the model's logits are not finite")
    if params.min_p > 0:
        probs = probs.where(probs >= params.min_p * probs.max(), 0.0)
    if params.top_k is not None or params.top_p < 1.0:
        ids = within_top(probs, params)
        probs = torch.zeros_like(probs).scatter_(0, ids, probs[ids])
    # For one draw, multinomial lets the tokens race: rounding changes the winner only where two
    # are about even. Along cumulative sums it would move every border behind a probable token.
    return int(torch.multinomial(probs, 1, generator=generator))


def within_top(probs: Tensor, params: SamplingParams) -> Tensor:
    """Ids of (V,) probabilities within top_k, and of these within top_p; at least one."""
    count = min(params.top_k or SORTED_FIRST, len(probs))
    while True:
        best, ids = probs.topk(count)
        total = best.sum() if params.top_k else probs.sum()
        # Keep the token that crosses top_p: what comes before it is below top_p. The first stays in
        # any case, also where a tiny top_p is 0 in float32.
        kept = max(1, int((best.cumsum(-1) - best < params.top_p * total).sum()))
        if kept < count or params.top_k or count == len(probs):
            return ids[:kept]
        count = min(8 * count, len(probs))


def most_probable(logprobs: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """Best ids and values of each row of (rows, V) log-probabilities, without dropped tokens."""
    if count == 0:
        return [[]] * len(logprobs)
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [[pair for pair in zip(*row, strict=True) if pair[1] > -math.inf] for row in pairs]
