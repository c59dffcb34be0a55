"""Which layers a decoding contrasts, and next-token scores out of their logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from effchal.config import ConfigError, DecodingConfig
from effchal.config.choices import DecodingMethod, Selector
from effchal.decoding.contrast import DROPPED_WHEN_SCORING, divergences, plausible, sled_logits


@dataclass(frozen=True)
class Dola:
    """DoLa with candidate layers resolved for one model; layer i is hidden_states[i]."""

    layers: tuple[int, ...]
    selector: str = "jsd"
    relative_top: float = 0.1
    min_tokens_to_keep: int = 1
    exit_norm: bool = False
    post_softmax: bool = True  # scoring only


@dataclass(frozen=True)
class Sled:
    """SLED with candidate layers resolved for one model."""

    layers: tuple[int, ...]
    rate: float = 1.0
    top_k: int = 10
    exit_norm: bool = False


Contrast = Dola | Sled | None  # None: the mature layer alone
Tap = tuple[int, bool]  # a premature layer, and whether it gets the final norm (exit_norm)
NO_LAYER = -1  # won: nothing is contrasted, or one token alone is plausible, so that no layer makes a difference


def layer_or_none(layer: float) -> int | None:
    return None if layer == NO_LAYER else int(layer)


def taps_of(contrasts: list[Contrast]) -> tuple[Tap, ...]:
    """What has to be tapped for all of them, once each."""
    wanted = {(layer, c.exit_norm) for c in contrasts if c is not None for layer in c.layers}
    return tuple(sorted(wanted))


def candidate_layers(bucket: str, num_layers: int, tied: bool) -> tuple[int, ...]:
    """`low` or `high` as the DoLa paper cuts them: even layers of the lower or the upper half.

    Above 40 layers, the lowest and the highest 20. With tied embeddings layer 0 gives back
    the input token, so `low` starts at 2.
    """
    cut = num_layers // 2 if num_layers <= 40 else 20
    if bucket == "low":
        return tuple(range(2 if tied else 0, cut, 2))
    start = cut if num_layers <= 40 else num_layers - 20
    return tuple(range(start + start % 2, num_layers, 2))


def check_premature_layers(layers: list[int] | tuple[int, ...], num_layers: int, key: str) -> None:
    """Layer i is hidden_states[i]: 0 = embeddings, num_layers = mature (after the final norm).

    Raises:
        ConfigError: nothing to contrast, or a layer that this model does not have.
    """
    allowed = f"0..{num_layers - 1} (layer {num_layers} is the mature one)"
    if not layers:
        raise ConfigError(
            f"{key} leaves no layer of this model, whose premature layers are {allowed}"
        )
    bad = [layer for layer in layers if not 0 <= layer < num_layers]
    if bad:
        raise ConfigError(
            f"{key} has {bad}, but this model's premature layers are {allowed}; "
            f"give low, high or a list made for {num_layers} layers"
        )


def contrast_of(
    cfg: DecodingConfig,
    num_layers: int,
    tied: bool,
    key: str = "decoding.premature_layers",
    layers: object = None,
) -> Contrast:
    """The decoding of a config, resolved for a model.

    Args:
        layers: in place of cfg.premature_layers, for a sweep; `key` then says where they stand.

    Raises:
        ConfigError: layers that the model does not have.
    """
    if cfg.method not in (DecodingMethod.dola, DecodingMethod.sled):
        return None
    wanted = cfg.premature_layers if layers is None else layers
    resolved = (
        candidate_layers(wanted, num_layers, tied) if isinstance(wanted, str) else tuple(wanted)
    )
    check_premature_layers(resolved, num_layers, key)
    if cfg.method is DecodingMethod.dola and cfg.selector is Selector.static and len(resolved) > 1:
        raise ConfigError(f"{key} has {list(resolved)}; decoding.selector=static takes one layer")
    if cfg.method is DecodingMethod.sled:
        return Sled(resolved, cfg.sled_rate, cfg.sled_top_k, cfg.exit_norm)
    return Dola(
        *(resolved, cfg.selector.value, cfg.relative_top, cfg.min_tokens_to_keep),
        *(cfg.exit_norm, cfg.post_softmax),
    )


class LayerLogits:
    """Logits of the mature layer and of tapped ones at P positions; what several contrasts share is computed once.

    Args:
        mature: (P, V). The arithmetic is float32: bf16 steps by 0.06 near -10.
        early: (K, P, V), one for each of `taps`; overwritten. None where a contrast has nothing to choose from,
            see `without_choice`.
    """

    def __init__(self, mature: Tensor, early: Tensor | None, taps: tuple[Tap, ...]) -> None:
        self._mature = mature.float()
        self._early = None if early is None else early.float()
        self._row = {tap: row for row, tap in enumerate(taps)}
        self.log_p = self._mature.log_softmax(-1)  # (P, V)
        self._log_q: Tensor | None = None
        self._shift: Tensor | None = None
        self._divergence: dict[str, Tensor] = {}
        self._kept: dict[tuple[float, int], tuple[Tensor, Tensor]] = {}

    @property
    def log_q(self) -> Tensor:
        """(K, P, V) float32, in the order of the taps."""
        if self._log_q is None:
            # In place: for many rows, a CPU takes longer to get fresh memory than to fill it.
            first = self._early[..., :1].clone()
            self._log_q = torch.log_softmax(self._early, -1, out=self._early)
            self._shift = first - self._log_q[..., :1]  # (K, P, 1)
        return self._log_q

    def _premature(self, rows: list[int], at: Tensor) -> Tensor:
        """(len(rows), R, V) logits, the softmax undone where it was taken in place."""
        logits = self._early[rows][:, at]
        return logits if self._shift is None else logits + self._shift[rows][:, at]

    def are_numbers(self) -> bool:
        """Whether all layers' logits are finite: one that is not spoils the softmax of its whole row."""
        columns = [self.log_p[:, 0]] + (
            [] if self._log_q is None else [self._log_q[..., 0].flatten()]
        )
        return bool(torch.isfinite(torch.cat(columns)).all())

    def divergence(self, selector: str) -> Tensor:
        """(K, P), in the order of the taps."""
        if selector not in self._divergence:
            self._divergence[selector] = divergences(self.log_p, self.log_q, selector)
        return self._divergence[selector]

    def scores(self, contrast: Contrast, at: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the next token at some positions, -inf where dropped, and the layer that won there.

        Without a contrast they are the model's logits, as a repetition penalty expects them.

        Args:
            at: (R,) int64, positions.

        Returns:
            (R, V) float32, and (R,) int64: DoLa's layers, NO_LAYER where one token alone is plausible or without DoLa.
        """
        none = torch.full_like(at, NO_LAYER)
        match contrast:
            case None:
                return self._mature[at], none
            case Sled():
                early = self._premature(self._rows(contrast), at)
                return sled_logits(self._mature[at], early, contrast.rate, contrast.top_k), none
        log_p = self.log_p[at]
        kept = plausible(log_p, contrast.relative_top, contrast.min_tokens_to_keep)
        if self._early is None:
            return log_p.masked_fill(~kept, -torch.inf), none
        row, layer = self._winner(contrast)
        scores = log_p - self.log_q[row[at], at]
        return scores.masked_fill_(~kept, -torch.inf), layer[at].masked_fill(
            kept.sum(-1) == 1, NO_LAYER
        )

    def target_logprobs(self, contrast: Contrast, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probability of one given token at each position, for scoring, and the layer that won there.

        The layer counts also where one token alone is plausible. A token that the contrast drops gets
        DROPPED_WHEN_SCORING. Without `post_softmax` DoLa's value is its bare score, which is no log-probability: it
        favours long answers.

        Args:
            targets: (P,) int64.

        Returns:
            (P,) float32, and (P,) int64 layers for DoLa.
        """
        match contrast:
            case None:
                return self.log_p.gather(-1, targets[:, None])[:, 0], None
            case Sled():
                scores, _ = self.scores(contrast, torch.arange(len(targets), device=targets.device))
                logprobs = scores.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
                return logprobs.clamp_min(DROPPED_WHEN_SCORING), None
        row, layer = self._winner(contrast)
        # Only plausible tokens count, and they are few: the rest of the vocabulary is never touched.
        position, token = self._plausible_tokens(contrast)  # (n,), (n,)
        score = self.log_p[position, token] - self.log_q[row[position], position, token]  # (n,)
        hit = token == targets[position]
        result = torch.full_like(targets, DROPPED_WHEN_SCORING, dtype=torch.float32)
        result[position[hit]] = score[hit]
        if contrast.post_softmax:
            result -= _logsumexp_by_position(score, position, len(targets))
        return result, layer

    def _rows(self, contrast: Dola | Sled) -> list[int]:
        return [self._row[layer, contrast.exit_norm] for layer in contrast.layers]

    def _winner(self, contrast: Dola) -> tuple[Tensor, Tensor]:
        """Row of the taps and layer that each position is contrasted with, (P,) each: its own, whatever the others."""
        rows = torch.tensor(self._rows(contrast), device=self.log_p.device)
        layers = torch.tensor(contrast.layers, device=self.log_p.device)
        if len(rows) == 1:  # static, or a single candidate
            index = torch.zeros(len(self.log_p), dtype=torch.int64, device=self.log_p.device)
        else:
            index = self.divergence(contrast.selector)[rows].argmax(0)  # (P,)
        return rows[index], layers[index]

    def _plausible_tokens(self, contrast: Dola) -> tuple[Tensor, Tensor]:
        key = (contrast.relative_top, contrast.min_tokens_to_keep)
        if key not in self._kept:
            self._kept[key] = plausible(self.log_p, *key).nonzero(as_tuple=True)
        return self._kept[key]


def may_leave_one_token(contrast: Contrast) -> bool:
    return (
        isinstance(contrast, Dola)
        and contrast.min_tokens_to_keep == 1
        and contrast.relative_top > 0
    )


def without_choice(mature: Tensor, contrasts: list[Dola]) -> Tensor:
    """(P,) bool: where each contrast leaves one token alone, so that a premature layer can change nothing.

    Args:
        mature: (P, V) logits. `scores` goes by their log-softmax, rounded otherwise, so this asks for a little more.
        contrasts: that may leave one token.
    """
    return (
        plausible(mature.float(), (1 - 1e-5) * min(c.relative_top for c in contrasts)).sum(-1) == 1
    )


def _logsumexp_by_position(score: Tensor, position: Tensor, positions: int) -> Tensor:
    """(P,) log of the sum of exp(score) over the entries of each position."""
    top = score.new_full((positions,), -torch.inf).scatter_reduce(0, position, score, "amax")
    return (
        top + score.new_zeros(positions).index_add(0, position, (score - top[position]).exp()).log()
    )
