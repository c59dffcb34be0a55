"""What a request asks of decoding, and the next token out of log-probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effchal.decoding.contrast import Contrast, Greedy
from effchal.decoding.transfer import fetch, upload

GREEDY_AT_OR_BELOW = 1e-6  # HELM writes temperature 0 as 1e-7
GREEDY = Greedy()
SORTED_FIRST = 512  # tokens that top_p looks at before it looks at more, on a CPU


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
    ends: frozenset[int] = frozenset()  # ids that end an answer, beside the model's own

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


def sample(
    logprobs: Tensor, params: Sequence[SamplingParams], generators: Sequence[torch.Generator]
) -> Tensor:
    """(R,) draws from (R, V) log-probabilities, each within its row's min_p, top_k and top_p.

    The host does not wait. A row's draw depends on its own settings and generator alone; where
    its log-probabilities are no numbers, so is that of the token drawn.
    """
    device = logprobs.device
    temperature = upload([[each.temperature] for each in params], device, logprobs.dtype)
    probs = (logprobs / temperature).softmax(-1)
    if any(each.min_p > 0 for each in params):
        share = upload([[each.min_p] for each in params], device, probs.dtype)
        probs = probs.where(probs >= share * probs.amax(-1, keepdim=True), 0.0)
    # Rows of the same top_k together: which of equal tokens come first may depend on the number.
    groups: dict[int | None, list[int]] = {}
    for row, each in enumerate(params):
        if each.top_k is not None or each.top_p < 1.0:
            groups.setdefault(each.top_k, []).append(row)
    for top_k, rows in groups.items():
        top_p = upload([[params[row].top_p] for row in rows], device, probs.dtype)
        if len(rows) == len(params):
            probs = within_top(probs, top_k, top_p)
        else:
            at = upload(rows, device)
            probs = probs.index_copy(0, at, within_top(probs[at], top_k, top_p))
    # torch.multinomial's way for one draw: tokens race. Rounding changes the winner only where
    # two are about even. Along cumulative sums it would move every border behind a probable token.
    times = torch.empty_like(probs)
    for row_times, generator in zip(times, generators, strict=True):
        row_times.exponential_(generator=generator)
    return torch.div(probs, times, out=times).argmax(-1)


def within_top(
    probs: Tensor, top_k: int | None, top_p: Tensor, looked_at: int = SORTED_FIRST
) -> Tensor:
    """(R, V) probabilities, 0 outside of top_k and, of these, top_p; one at least stays.

    Args:
        top_p: (R, 1).
        looked_at: most probable tokens that a CPU sorts first; it sorts more for rows that need
            them. A GPU sorts all, since asking it for the number would be a wait.
    """
    vocabulary = probs.shape[-1]
    count = min(top_k or (vocabulary if probs.is_cuda else looked_at), vocabulary)
    best, ids = probs.topk(count)  # (R, count)
    # Of equal ones, common in bfloat16, topk puts any first. The one that greedy takes comes first.
    greedy = probs.argmax(-1, keepdim=True)
    ids = torch.cat([greedy, ids.where(ids != greedy, ids[:, :1])[:, 1:]], -1)
    total = (best if top_k else probs).sum(-1, keepdim=True)
    # Keep the token that crosses top_p: what comes before it is below top_p. The first stays in
    # any case, also where a tiny top_p is 0 in float32.
    kept = (best.cumsum(-1) - best < top_p * total).sum(-1, keepdim=True).clamp_min(1)  # (R, 1)
    best = best.where(torch.arange(count, device=probs.device) < kept, 0.0)
    result = torch.zeros_like(probs).scatter_(-1, ids, best)
    if not top_k and count < vocabulary:
        needy = (kept[:, 0] == count).nonzero()[:, 0]
        if len(needy):
            result[needy] = within_top(probs[needy], None, top_p[needy], 8 * looked_at)
    return result


def most_probable(logprobs: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """Best ids and values of each row of (rows, V) log-probabilities, without dropped tokens."""
    if count == 0:
        return [[]] * len(logprobs)
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]))
    return pairs_of(*fetch([ids, values]))


def pairs_of(ids: list[list[float]], values: list[list[float]]) -> list[list[tuple[int, float]]]:
    """(id, value) of each row of ids and values, without dropped tokens."""
    return [
        [(int(i), value) for i, value in zip(*row, strict=True) if value > -math.inf]
        for row in zip(ids, values, strict=True)
    ]
