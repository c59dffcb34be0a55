"""Logits of tapped layers, and what contrasts share: log-softmax, divergences, plausible set."""

import itertools
import math

import torch
from torch import Tensor
from torch.linalg import vecdot

from effchal.decoding.transfer import upload

Tap = tuple[int, bool]  # a premature layer, and whether it gets the final norm (exit_norm)
NO_LAYER = -1  # no premature layer made a difference at a position
SMALLEST = -87.0  # log of about the smallest normal float32; below it, a CPU is much slower
# Numbers handled at once: a CPU is fast on what stays in its cache, a GPU wants few launches.
BLOCK = {"cpu": 1 << 19, "cuda": 1 << 27}


class LayerLogits:
    """Logits of the mature layer and of tapped ones at P positions; results are computed once.

    Args:
        mature: (P, V). The arithmetic is float32: bf16 steps by 0.06 near -10.
        premature: (K, P, V), one for each of `taps`; overwritten. None where every contrast leaves
            one token alone, see kernels/premature_rows.py.
    """

    def __init__(self, mature: Tensor, premature: Tensor | None, taps: tuple[Tap, ...]) -> None:
        self.mature = mature.float()
        self.log_p = self.mature.log_softmax(-1)  # (P, V)
        self._premature = None if premature is None else premature.float()
        self._tap_rows = {tap: row for row, tap in enumerate(taps)}
        self._log_q: Tensor | None = None
        self._shift: Tensor | None = None  # (K, P, 1), what the log-softmax took away
        self._divergences: dict[str, Tensor] = {}
        self._plausible: dict[tuple[float, int], tuple[Tensor, ...]] = {}

    @property
    def has_premature(self) -> bool:
        return self._premature is not None

    @property
    def log_q(self) -> Tensor:
        """(K, P, V) float32, log-softmax of the premature layers in the order of the taps."""
        if self._log_q is None:
            assert self._premature is not None
            # In place: for many rows, a CPU takes longer to get fresh memory than to fill it.
            first = self._premature[..., :1].clone()
            self._log_q = torch.log_softmax(self._premature, -1, out=self._premature)
            self._shift = first - self._log_q[..., :1]
        return self._log_q

    def rows_of(self, layers: tuple[int, ...], exit_norm: bool) -> list[int]:
        """Rows of `log_q` that hold these layers."""
        return [self._tap_rows[layer, exit_norm] for layer in layers]

    def premature_logits(self, rows: list[int], at: Tensor) -> Tensor:
        """(len(rows), R, V) logits at some positions; undoes a log-softmax taken in place."""
        assert self._premature is not None
        some = upload(rows, at.device)
        logits = self._premature[some][:, at]
        return logits if self._shift is None else logits + self._shift[some][:, at]

    def divergence(self, selector: str) -> Tensor:
        """(K, P) float64, of each premature layer from the mature one."""
        if selector not in self._divergences:
            self._divergences[selector] = divergences(self.log_p, self.log_q, selector)
        return self._divergences[selector]

    def plausible_tokens(self, relative_top: float, min_tokens: int) -> tuple[Tensor, ...]:
        """Positions and ids of all plausible tokens, (n,) each."""
        key = (relative_top, min_tokens)
        if key not in self._plausible:
            self._plausible[key] = plausible(self.log_p, *key).nonzero(as_tuple=True)
        return self._plausible[key]

    def are_finite(self) -> bool:
        """Whether all logits are finite: a single NaN spoils the log-softmax of its whole row."""
        columns = [self.log_p[:, 0]]
        if self._log_q is not None:
            columns.append(self._log_q[..., 0].flatten())
        return bool(torch.isfinite(torch.cat(columns)).all())


def plausible(log_p: Tensor, relative_top: float, min_tokens: int = 1) -> Tensor:
    """(..., V) bool: tokens with at least `relative_top` of the best one's probability.

    Section 2.3 of DoLa. The `min_tokens` most probable ones stay in any case; with
    relative_top 0 all do.
    """
    if relative_top == 0:
        return torch.ones_like(log_p, dtype=torch.bool)
    floor = log_p.amax(-1, keepdim=True) + math.log(relative_top)
    if min_tokens > 1:
        best = log_p.topk(min(min_tokens, log_p.shape[-1]), dim=-1).values
        floor = torch.minimum(floor, best[..., -1:])
    return log_p >= floor


def js_divergence(log_p: Tensor, log_q: Tensor, p: Tensor, work: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats over the last axis, in [0, ln 2], float64.

    Early exits without a final norm can be so sharp that all are within 1e-7 of ln 2, where
    float32 would choose by its noise. So this sums what is missing to ln 2. All terms of that
    sum are positive: `((a + b) log(1 + b/a) + b log(a/b)) / 2`, where a is the larger and b the
    smaller of p and q.

    Args:
        log_p, log_q: log-probabilities; their shapes broadcast.
        p: probabilities(log_p).
        work: (3, *shape of log_q), overwritten; fresh memory costs a CPU more than the arithmetic.
    """
    q, other, smaller = work
    # In place wherever possible: what is in the cache already costs a CPU half.
    log_ratio = torch.clamp_min(log_q.expand(other.shape), SMALLEST, out=other)
    torch.exp(log_ratio, out=q)
    log_ratio.sub_(log_p.clamp_min(SMALLEST)).abs_()  # log(a/b)
    torch.minimum(p, q, out=smaller)  # b
    missing = log_ratio.mul_(smaller).sum(-1)
    larger = torch.maximum(p, q, out=other)  # a
    missing += torch.div(smaller, larger, out=smaller).log1p_().mul_(q.add_(p)).sum(-1)
    return (math.log(2) - 0.5 * missing.double()).clamp_min_(0)


def official_divergence(log_p: Tensor, log_q: Tensor, p: Tensor, work: Tensor) -> Tensor:
    """DoLa's published code: KL from the middle to each side, mean over the vocabulary.

    Arguments as in js_divergence.
    """
    q = torch.clamp_min(log_q.expand(work[0].shape), SMALLEST, out=work[0]).exp_()
    m = q.add_(p).mul_(0.5).clamp_min_(torch.finfo(q.dtype).tiny)
    cross = 0.5 * (vecdot(m, log_p) + vecdot(m, log_q))
    return (vecdot(m, torch.log(m, out=work[1])) - cross).double() / log_p.shape[-1]


DIVERGENCES = {"jsd": js_divergence, "official": official_divergence}


def divergences(log_p: Tensor, log_q: Tensor, selector: str) -> Tensor:
    """(K, P) float64, of each premature layer from the mature one at each position, block by block.

    Args:
        log_p: (P, V), of the mature layer.
        log_q: (K, P, V), of the premature layers.
        selector: jsd or official.
    """
    layers, positions, vocabulary = log_q.shape
    rows = max(1, BLOCK.get(log_q.device.type, BLOCK["cuda"]) // vocabulary)
    layers_at_once = min(layers, rows)  # first, since layers share the exponentials of p
    positions_at_once = min(positions, max(1, rows // layers_at_once))
    p = probabilities(log_p)
    work = log_q.new_empty(3, layers_at_once, positions_at_once, vocabulary)
    result = log_q.new_empty(layers, positions, dtype=torch.float64)
    starts = itertools.product(
        range(0, layers, layers_at_once), range(0, positions, positions_at_once)
    )
    for layer, position in starts:
        some = slice(layer, layer + layers_at_once)
        here = slice(position, position + positions_at_once)
        q = log_q[some, here]
        memory = work[:, : q.shape[0], : q.shape[1]]
        result[some, here] = DIVERGENCES[selector](log_p[here], q, p[here], memory)
    return result


def probabilities(log_p: Tensor) -> Tensor:
    return log_p.clamp_min(SMALLEST).exp_()
