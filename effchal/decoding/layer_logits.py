"""Decoding by contrasting layers, as pure functions on logits: DoLa (arXiv:2309.03883), SLED (arXiv:2411.02433)."""

import itertools
import math

import torch
from torch import Tensor
from torch.linalg import vecdot

SELECTORS = ("jsd", "official", "static")
DROPPED_WHEN_SCORING = -1000.0  # finite, so that a sum over a continuation stays a number
SMALLEST = -87.0  # log of about the smallest normal float32; below it, a CPU is much slower
# Numbers handled at once: a CPU is fast on what stays in its cache, a GPU wants few launches.
BLOCK = {"cpu": 1 << 19, "cuda": 1 << 27}


def js_divergence(
    log_p: Tensor, log_q: Tensor, p: Tensor | None = None, work: Tensor | None = None
) -> Tensor:
    """Jensen-Shannon divergence in nats over the last axis, in [0, ln 2], float64; shapes broadcast.

    Early exits without a final norm can be so sharp that all are within 1e-7 of ln 2, where float32 would choose
    by its noise. So this sums what is missing to ln 2, whose terms are all positive: with a the larger and b the
    smaller of p and q, ((a + b) log(1 + b/a) + b log(a/b)) / 2.

    Args:
        p: probabilities(log_p), where the caller has it.
        work: (3, *shape of log_q), overwritten; fresh memory costs a CPU more than the arithmetic.
    """
    p, work = _room(log_p, log_q, p, work)
    q, other, smaller = work
    # In place wherever it goes: what is in the cache already costs a CPU half.
    log_ratio = torch.clamp_min(log_q.expand(other.shape), SMALLEST, out=other)
    torch.exp(log_ratio, out=q)
    log_ratio.sub_(log_p.clamp_min(SMALLEST)).abs_()  # log(a/b)
    torch.minimum(p, q, out=smaller)  # b
    missing = log_ratio.mul_(smaller).sum(-1)
    larger = torch.maximum(p, q, out=other)  # a
    missing += torch.div(smaller, larger, out=smaller).log1p_().mul_(q.add_(p)).sum(-1)
    return (math.log(2) - 0.5 * missing.double()).clamp_min_(0)


def official_divergence(
    log_p: Tensor, log_q: Tensor, p: Tensor | None = None, work: Tensor | None = None
) -> Tensor:
    """What the code published with the paper computes: KL from the middle to each side, mean over the vocabulary."""
    p, work = _room(log_p, log_q, p, work)
    q = torch.clamp_min(log_q.expand(work[0].shape), SMALLEST, out=work[0]).exp_()
    m = q.add_(p).mul_(0.5).clamp_min_(torch.finfo(q.dtype).tiny)
    cross = 0.5 * (vecdot(m, log_p) + vecdot(m, log_q))
    return (vecdot(m, torch.log(m, out=work[1])) - cross).double() / log_p.shape[-1]


def _room(
    log_p: Tensor, log_q: Tensor, p: Tensor | None, work: Tensor | None
) -> tuple[Tensor, Tensor]:
    if work is None:
        work = log_q.new_empty(3, *torch.broadcast_shapes(log_p.shape, log_q.shape))
    return probabilities(log_p) if p is None else p, work


def probabilities(log_p: Tensor) -> Tensor:
    return log_p.clamp_min(SMALLEST).exp_()


DIVERGENCES = {"jsd": js_divergence, "official": official_divergence}


def divergences(log_p: Tensor, log_q: Tensor, selector: str) -> Tensor:
    """(K, P) float64, divergence of each premature layer from the mature one at each position, block by block.

    Args:
        log_p: (P, V), of the mature layer.
        log_q: (K, P, V), of the candidates.
        selector: jsd or official.
    """
    count, positions, vocabulary = log_q.shape
    rows = max(1, BLOCK.get(log_q.device.type, BLOCK["cuda"]) // vocabulary)
    deep = min(count, rows)  # first, since these share what there is to know of p
    wide = min(positions, max(1, rows // deep))
    p, work = probabilities(log_p), log_q.new_empty(3, deep, wide, vocabulary)
    result = log_q.new_empty(count, positions, dtype=torch.float64)
    for k, at in itertools.product(range(0, count, deep), range(0, positions, wide)):
        some, here = slice(k, k + deep), slice(at, at + wide)
        q = log_q[some, here]
        space = work[:, : q.shape[0], : q.shape[1]]
        result[some, here] = DIVERGENCES[selector](log_p[here], q, p[here], space)
    return result


def choose_layers(log_p: Tensor, log_q: Tensor, selector: str) -> Tensor:
    """Index of the premature layer furthest from the mature one, for each row on its own.

    Args:
        log_p: (B, V), of the mature layer.
        log_q: (K, B, V), of the candidates.
        selector: jsd, official, or static (K must be 1).

    Returns:
        (B,) int64, in 0..K-1. Averaged over the batch, as elsewhere, rows would change each other's text.
    """
    if selector == "static":
        if len(log_q) != 1:
            raise ValueError(f"selector static takes one premature layer, got {len(log_q)}")
        return torch.zeros(log_q.shape[1], dtype=torch.int64, device=log_q.device)
    return divergences(log_p, log_q, selector).argmax(0)


def plausible(log_p: Tensor, relative_top: float, min_tokens_to_keep: int = 1) -> Tensor:
    """(..., V) bool: tokens that the mature layer gives at least relative_top of its best one's probability.

    Section 2.3 of DoLa. The min_tokens_to_keep likeliest stay in any case; with relative_top 0 all do.
    """
    if relative_top == 0:
        return torch.ones_like(log_p, dtype=torch.bool)
    floor = log_p.amax(-1, keepdim=True) + math.log(relative_top)
    if min_tokens_to_keep > 1:
        floor = torch.minimum(
            floor, log_p.topk(min(min_tokens_to_keep, log_p.shape[-1]), dim=-1).values[..., -1:]
        )
    return log_p >= floor


def dola_scores(
    mature_logits: Tensor,
    premature_logits: Tensor,
    relative_top: float = 0.1,
    min_tokens_to_keep: int = 1,
    selector: str = "jsd",
    dropped: float = -math.inf,
) -> tuple[Tensor, Tensor]:
    """Next-token scores log p - log q of the chosen layer, and the choice.

    Args:
        mature_logits: (B, V), any float dtype; the arithmetic is float32, because bf16 steps by 0.06 near -10.
        premature_logits: (K, B, V), K >= 1, in the order of decoding.premature_layers.
        relative_top: in [0, 1]; 0 keeps every token.
        dropped: score of implausible tokens: -inf to generate, DROPPED_WHEN_SCORING to score.

    Returns:
        scores: (B, V) float32.
        chosen: (B,) int64, index into the K candidates.
    """
    log_p = mature_logits.float().log_softmax(-1)  # (B, V)
    log_q = premature_logits.float().log_softmax(-1)  # (K, B, V)
    chosen = choose_layers(log_p, log_q, selector)  # (B,)
    rows = torch.arange(len(chosen), device=chosen.device)
    scores = log_p - log_q[chosen, rows]  # (B, V)
    return scores.masked_fill(~plausible(log_p, relative_top, min_tokens_to_keep), dropped), chosen


def penalise_repetition(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Scores of tokens already seen, made less attractive: positive ones divided by penalty, negative ones multiplied.

    Args:
        scores: (B, V); after the contrast they are mostly positive, so a penalty of 1.2 costs a sure token dear.
        seen: (B, V) bool.
        penalty: 1.0 changes nothing.
    """
    penalised = torch.where(scores > 0, scores / penalty, scores * penalty)
    return torch.where(seen, penalised, scores)


def sled_logits(mature_logits: Tensor, premature_logits: Tensor, rate: float, top_k: int) -> Tensor:
    """Logits moved along the contrast of early layers, Algorithm 1 of SLED in closed form.

    For layer n and token i, s = max(0, cos(q_n - e_i, z_n - z_N))^2 with one-hot e_i. The layers' normalised s,
    weighed by their sums, are the estimate P; the step is rate * (p - P) on the top_k tokens.

    Args:
        mature_logits: (B, V), z_N.
        premature_logits: (K, B, V), z_n.
        rate: 0 changes nothing on the top_k; above 2 it harms (GSM8K).

    Returns:
        (B, V) float32; -inf outside the top_k of the mature layer.
    """
    z, early = mature_logits.float(), premature_logits.float()
    values, ids = z.topk(min(top_k, z.shape[-1]), dim=-1)  # (B, k)
    at = ids.expand(len(early), *ids.shape)  # (K, B, k)
    q = early.softmax(-1)  # (K, B, V)
    d = early - z  # (K, B, V)
    # <q - e_i, d> and |q - e_i|^2 for all i at once, without a (K, k, V) tensor.
    dot = (q * d).sum(-1, keepdim=True) - d.gather(-1, at)  # (K, B, k)
    length = (q.square().sum(-1, keepdim=True) - 2 * q.gather(-1, at) + 1).clamp_min(0).sqrt()
    norm = length * d.norm(dim=-1, keepdim=True)
    cosine = torch.where(norm == 0, 0.0, dot / norm.clamp_min(torch.finfo(torch.float32).tiny))
    s = cosine.clamp_min(0).square()  # (K, B, k)
    # sum_n (S_n / S) * (s_n / S_n) = sum_n s_n / S: a layer that agrees in nothing has no say.
    total = s.sum((0, -1), keepdim=True)  # (1, B, 1)
    estimate = torch.where(
        total == 0, 0.0, s / total.clamp_min(torch.finfo(torch.float32).tiny)
    ).sum(0)  # (B, k)
    p = z.softmax(-1).gather(-1, ids)  # (B, k)
    step = torch.where(total[0] == 0, 0.0, rate * (p - estimate))
    return torch.full_like(z, -math.inf).scatter(-1, ids, values - step)
