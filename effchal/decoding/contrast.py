"""Ways to score the next token from the logits of several layers: Greedy, Dola, Sled.

A new contrast is one more class with the members of `Contrast`. docs/architecture.md, "Where is
what?", names the places that make it from a config.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from effchal.decoding.layer_logits import NO_LAYER, LayerLogits, Tap, plausible
from effchal.decoding.transfer import upload

DROPPED_WHEN_SCORING = -1000.0  # finite, so that a sum over a continuation stays a number
TINY = torch.finfo(torch.float32).tiny


class Contrast(Protocol):
    """Hashable. Layer i is hidden_states[i]: 0 is the embeddings."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Premature layers whose logits it needs."""

    @property
    def exit_norm(self) -> bool:
        """Whether they get the final norm before the head."""

    @property
    def lone_share(self) -> float:
        """Premature layers change nothing where no second token reaches this share of the best
        one's probability. 0: they always may."""

    def scores(self, logits: LayerLogits, at: Tensor) -> tuple[Tensor, Tensor]:
        """Next-token scores at some positions, -inf where a token is dropped.

        Args:
            at: (R,) int64, positions.

        Returns:
            (R, V) float32, and (R,) int64: the layer that decided, or NO_LAYER.
        """

    def target_logprobs(self, logits: LayerLogits, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probability of one given token at each position, to score given text.

        A dropped token gets DROPPED_WHEN_SCORING.

        Args:
            targets: (P,) int64.

        Returns:
            (P,) float32, and the (P,) int64 chosen layers where the contrast chooses.
        """


@dataclass(frozen=True)
class Greedy:
    """No contrast: the mature layer's logits, as a repetition penalty expects them."""

    layers: tuple[int, ...] = ()
    exit_norm: bool = False
    lone_share: float = 0.0

    def scores(self, logits: LayerLogits, at: Tensor) -> tuple[Tensor, Tensor]:
        return logits.mature[at], torch.full_like(at, NO_LAYER)

    def target_logprobs(self, logits: LayerLogits, targets: Tensor) -> tuple[Tensor, None]:
        return logits.log_p.gather(-1, targets[:, None])[:, 0], None


@dataclass(frozen=True)
class Dola:
    """DoLa (arXiv:2309.03883): log p - log q of the premature layer furthest from the mature one.

    Each position chooses its layer alone. Published code averages over the batch, so that rows
    change each other's text. Only plausible tokens (section 2.3) are kept.
    """

    layers: tuple[int, ...]
    selector: str = "jsd"  # or official, or static (one layer)
    relative_top: float = 0.1  # in [0, 1]; 0 keeps every token
    min_tokens_to_keep: int = 1
    exit_norm: bool = False
    post_softmax: bool = True  # scoring only

    def __post_init__(self) -> None:
        if self.selector == "static" and len(self.layers) != 1:
            raise ValueError(f"selector static takes one premature layer, got {len(self.layers)}")

    @property
    def lone_share(self) -> float:
        return self.relative_top if self.min_tokens_to_keep == 1 else 0.0

    def scores(self, logits: LayerLogits, at: Tensor) -> tuple[Tensor, Tensor]:
        """The layer is NO_LAYER where one token alone is plausible."""
        log_p = logits.log_p[at]
        kept = plausible(log_p, self.relative_top, self.min_tokens_to_keep)
        if not logits.has_premature:
            return log_p.masked_fill(~kept, -math.inf), torch.full_like(at, NO_LAYER)
        row, layer = self._furthest(logits)
        scores = (log_p - logits.log_q[row[at], at]).masked_fill_(~kept, -math.inf)
        return scores, layer[at].masked_fill(kept.sum(-1) == 1, NO_LAYER)

    def target_logprobs(self, logits: LayerLogits, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The layer counts also where one token alone is plausible.

        Without `post_softmax` the value is the bare score, no log-probability: it favours long
        answers.
        """
        row, layer = self._furthest(logits)
        # Plausible tokens are few: the rest of the vocabulary is never touched.
        position, token = logits.plausible_tokens(self.relative_top, self.min_tokens_to_keep)
        score = logits.log_p[position, token] - logits.log_q[row[position], position, token]  # (n,)
        hit = token == targets[position]
        result = torch.full_like(targets, DROPPED_WHEN_SCORING, dtype=torch.float32)
        result[position[hit]] = score[hit]
        if self.post_softmax:
            result -= logsumexp_by_position(score, position, len(targets))
        return result, layer

    def _furthest(self, logits: LayerLogits) -> tuple[Tensor, Tensor]:
        """Row of log_q and layer that each position is contrasted with, (P,) each."""
        device = logits.log_p.device
        rows = upload(logits.rows_of(self.layers, self.exit_norm), device)
        layers = upload(self.layers, device)
        if len(rows) == 1:
            index = torch.zeros(len(logits.log_p), dtype=torch.int64, device=device)
        else:
            index = logits.divergence(self.selector)[rows].argmax(0)  # (P,)
        return rows[index], layers[index]


@dataclass(frozen=True)
class Sled:
    """SLED (arXiv:2411.02433), Algorithm 1 in closed form: logits moved along a contrast of layers.

    For layer n and token i, s = max(0, cos(q_n - e_i, z_n - z_N))^2 with one-hot e_i. The layers'
    normalised s, weighed by their sums, are the estimate P; the step is rate * (p - P) on the top_k
    tokens. The others are dropped.
    """

    layers: tuple[int, ...]
    rate: float = 1.0  # 0 changes nothing on the top_k; above 2 it harms (GSM8K)
    top_k: int = 10
    exit_norm: bool = False
    lone_share: float = 0.0

    def scores(self, logits: LayerLogits, at: Tensor) -> tuple[Tensor, Tensor]:
        z = logits.mature[at]  # (R, V)
        rows = logits.rows_of(self.layers, self.exit_norm)
        early = logits.premature_logits(rows, at)  # (K, R, V)
        values, ids = z.topk(min(self.top_k, z.shape[-1]), dim=-1)  # (R, k)
        top = ids.expand(len(early), *ids.shape)  # (K, R, k)
        q = early.softmax(-1)
        d = early - z
        # <q - e_i, d> and |q - e_i|^2 for all i at once, without a (K, k, V) tensor.
        dot = (q * d).sum(-1, keepdim=True) - d.gather(-1, top)  # (K, R, k)
        length = q.square().sum(-1, keepdim=True) - 2 * q.gather(-1, top) + 1
        norm = length.clamp_min(0).sqrt() * d.norm(dim=-1, keepdim=True)
        cosine = torch.where(norm == 0, 0.0, dot / norm.clamp_min(TINY))
        s = cosine.clamp_min(0).square()  # (K, R, k)
        # sum_n (S_n / S) * (s_n / S_n) = sum_n s_n / S: a layer that agrees in nothing has no say.
        total = s.sum((0, -1), keepdim=True)  # (1, R, 1)
        estimate = torch.where(total == 0, 0.0, s / total.clamp_min(TINY)).sum(0)  # (R, k)
        p = z.softmax(-1).gather(-1, ids)  # (R, k)
        step = torch.where(total[0] == 0, 0.0, self.rate * (p - estimate))
        moved = torch.full_like(z, -math.inf).scatter(-1, ids, values - step)
        return moved, torch.full_like(at, NO_LAYER)

    def target_logprobs(self, logits: LayerLogits, targets: Tensor) -> tuple[Tensor, None]:
        scores, _ = self.scores(logits, torch.arange(len(targets), device=targets.device))
        logprobs = scores.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        return logprobs.clamp_min(DROPPED_WHEN_SCORING), None


def next_logprobs(contrast: Contrast, logits: LayerLogits, at: Tensor) -> tuple[Tensor, Tensor]:
    """(R, V) log-probabilities of the next token, and (R,) layers; see Contrast.scores."""
    if contrast == Greedy():  # the log-softmax of its scores is there already
        return logits.log_p[at], torch.full_like(at, NO_LAYER)
    scores, layers = contrast.scores(logits, at)
    return scores.log_softmax(-1), layers


def taps_of(contrasts: Iterable[Contrast]) -> tuple[Tap, ...]:
    """What has to be tapped for all of them, once each."""
    wanted = {(layer, each.exit_norm) for each in contrasts for layer in each.layers}
    return tuple(sorted(wanted))


def logsumexp_by_position(score: Tensor, position: Tensor, positions: int) -> Tensor:
    """(P,) log of the sum of exp(score) over the entries of each position; both (n,)."""
    top = score.new_full((positions,), -math.inf).scatter_reduce(0, position, score, "amax")
    sums = score.new_zeros(positions).index_add(0, position, (score - top[position]).exp())
    return top + sums.log()
