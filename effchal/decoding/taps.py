"""The model as decoding sees it: ids in, states of chosen layers at chosen positions, a head product for all."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effchal.decoding.fused_forward import Part, decode_step
from effchal.decoding.kv_cache import RowCache, attention_mask
from effchal.decoding.layers import Contrast, LayerLogits, Tap, may_leave_one_token, without_choice
from effchal.kernels.cpu_linear import FEW_ROWS, PackedLinear
from effchal.kernels.upcast import widen_where_used
from effchal.model.structure import backbone, causal_lm, final_norm, head, layers_of

FEW_TOKENS = 128  # up to which a step goes without the library's layers; where blocks of weights are faster, FEW_ROWS
# Premature rows from which a head product takes a CPU arithmetic rather than reading, so that fewer rows are faster.
# A GPU gets there at some hundred rows, and two products would read the head twice.
MANY_ROWS = 32
WORTH_ASKING = 0.45  # of the positions must have no choice, for few rows to be worth a second reading of the head
MEMORY = 0.9  # weight of what was before, in the share of positions without a choice


@dataclass(frozen=True)
class NewTokens:
    """What rows first, first + 1, ... of a cache get next."""

    cache: RowCache
    first: int
    ids: Tensor  # (rows, new) int64
    shared: int = 0  # tokens that all of these rows begin with


class TappedModel:
    """A causal language model with its head taken apart, so that one product serves many layers.

    Works with peft adapters (also one on the head), NF4, tied and untied heads.
    """

    def __init__(self, model: nn.Module) -> None:
        config = causal_lm(model).config.get_text_config()
        if causal_lm(model).config._attn_implementation != "sdpa":
            causal_lm(model).set_attn_implementation(
                "sdpa"
            )  # flash attention takes no mask of ours
        self.device = next(model.parameters()).device
        self.num_layers: int = config.num_hidden_layers
        self.tied: bool = bool(config.tie_word_embeddings)
        self.max_positions: int = config.max_position_embeddings
        self.config = config
        self.backbone, self._head = backbone(model), head(model)
        self._layers, self._norm = layers_of(model), final_norm(model)
        own = next(
            p.dtype for p in model.parameters() if p.is_floating_point()
        )  # NF4 packs weights in uint8
        self.dtype = (
            torch.float32 if widen_where_used(model) else own
        )  # of states, and so of the cache
        self.vocabulary: int = config.vocab_size
        self._without_choice = (
            0.0  # share of the last positions where DoLa had one token to choose from
        )
        self._packed = PackedLinear(self._head.weight) if PackedLinear.suits(self._head) else None
        self._step = decode_step(self.backbone, self._layers, self._norm, config)
        # Whether `extend` makes use of what rows share: where it was measured to be faster.
        self.can_share = (
            self._step is not None and self.device.type == "cpu" and self.dtype == torch.float32
        )
        self._few = FEW_ROWS if self.can_share else FEW_TOKENS

    def are_few(self, tokens: int) -> bool:
        """Whether so many new tokens, of any caches, can go through the model in one call of `extend`."""
        return self._step is not None and tokens <= self._few

    def extend(self, pieces: list[NewTokens], taps: tuple[Tap, ...], at: Tensor) -> Tensor:
        """Give rows their next tokens; the tapped states, see `states`.

        Args:
            pieces: one; or several, each of a cache of its own, where all their tokens are few.
            at: (P,) int64, positions among the new tokens, one piece after the other and row by row.
        """
        one_each = self._step is not None and all(piece.ids.shape[1] == 1 for piece in pieces)
        few = one_each or self.are_few(sum(piece.ids.numel() for piece in pieces))
        parts = [self._part(piece, few) for piece in pieces]
        if few:
            states = self._short_step(parts, taps, at)
        else:
            (part,) = parts
            states = self.states(part.ids, part.position_ids, part.cache, part.mask, taps, at)
        for part in parts:
            part.cache.commit()
        return states

    def _part(self, new: NewTokens, few: bool) -> Part:
        position_ids = new.cache.extend(new.first, *new.ids.shape, self.device)  # (rows, new)
        columns = torch.arange(new.cache.total(), device=self.device)[None]  # (1, C)
        visible = (columns[:, None] <= position_ids[:, :, None])[:, None]  # (rows, 1, new, C)
        mask = attention_mask(self.config, visible, position_ids, columns)
        all_seen = new.ids.shape[1] == 1 and mask is visible  # every row sees all that it has
        even = len(set(new.cache.lengths[new.first : new.first + len(new.ids)])) == 1
        if few and all_seen and even:
            mask = None
        return Part(new.ids, position_ids, new.cache, mask, new.shared if all_seen else 0)

    def _short_step(self, parts: list[Part], taps: tuple[Tap, ...], at: Tensor) -> Tensor:
        """What `states` gives, without the library's layers."""
        states = self._norm.weight.new_empty(len(taps) + 1, len(at), self.config.hidden_size)
        kept: dict[int, list[Tensor]] = {}
        for row, (layer, _) in enumerate(taps):
            kept.setdefault(layer, []).append(states[row])
        states[-1] = self._step(parts, at, kept)
        return self._exit_norm(states, taps)

    def states(
        self,
        ids: Tensor,
        position_ids: Tensor,
        cache: RowCache | None,
        mask: Any,
        taps: tuple[Tap, ...],
        at: Tensor,
    ) -> Tensor:
        """Run the backbone and keep the states of the tapped layers at some positions.

        Args:
            ids, position_ids: (B, T) int64.
            cache: what attention reads and extends, or None.
            mask: what the backbone takes as attention_mask.
            taps: K layers below the mature one.
            at: (P,) int64, positions of the flattened (B * T).

        Returns:
            (K + 1, P, D), the mature layer's last.
        """
        kept: list[Tensor] = []
        with self._tapped(taps, at, kept):
            hidden = self.backbone(
                input_ids=ids,
                position_ids=position_ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state
        mature = hidden.flatten(0, 1).index_select(0, at)
        if not taps:
            return mature[None]
        states = kept[0]
        states[-1] = mature
        return self._exit_norm(states, taps)

    def _exit_norm(self, states: Tensor, taps: tuple[Tap, ...]) -> Tensor:
        normed = [row for row, (_, exit_norm) in enumerate(taps) if exit_norm]
        if normed:
            states[normed] = self._norm(states[normed])
        return states

    def logits(self, states: Tensor, taps: tuple[Tap, ...]) -> LayerLogits:
        """One head product over the stacked states (K + 1, P, D)."""
        logits = self.head(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return LayerLogits(logits[-1], logits[:-1], taps)

    def logits_to_choose(
        self, states: Tensor, taps: tuple[Tap, ...], contrasts: list[Contrast]
    ) -> list[tuple[list[int], LayerLogits]]:
        """Positions with their logits; premature rows are left out where all contrasts leave one token alone.

        Args:
            states: (K + 1, P, D).
            contrasts: that the next token is chosen by, at any of the positions.
        """
        everywhere = list(range(states.shape[1]))
        if (
            self.device.type != "cpu"
            or not taps
            or not all(may_leave_one_token(each) for each in contrasts)
        ):
            return [(everywhere, self.logits(states, taps))]
        if len(taps) * len(everywhere) < MANY_ROWS and self._without_choice < WORTH_ASKING:
            logits = self.logits(states, taps)
            self._count(without_choice(logits.log_p, contrasts))
            return [(everywhere, logits)]
        mature = self.head(states[-1])
        alone = self._count(without_choice(mature, contrasts))
        sure, open_ = ([i for i in everywhere if alone[i] is wanted] for wanted in (True, False))
        parts = [(sure, LayerLogits(mature[sure], None, taps))] if sure else []
        if open_:
            early = self.head(states[:-1, open_].flatten(0, 1)).unflatten(
                0, (len(taps), len(open_))
            )
            parts.append((open_, LayerLogits(mature[open_], early, taps)))
        return parts

    def forget(self) -> None:
        """As if nothing had been decoded: what comes next is then the same to the bit, whatever was before."""
        self._without_choice = 0.0

    def _count(self, alone: Tensor) -> list[bool]:
        """Remember how often there is no choice; it decides what is computed first, so no more than rounding."""
        found = alone.tolist()
        self._without_choice = MEMORY * self._without_choice + (1 - MEMORY) * sum(found) / len(
            found
        )
        return found

    def head(self, states: Tensor) -> Tensor:
        """(rows, D) -> (rows, V)."""
        return self._packed(states) if self._packed else self._head(states)

    @contextlib.contextmanager
    def _tapped(self, taps: tuple[Tap, ...], at: Tensor, kept: list[Tensor]) -> Iterator[None]:
        """Hooks that copy the input of tapped layers into one buffer, which has a last row for the mature state."""

        def copy_into(rows: list[int]):
            def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
                hidden = (args[0] if args else kwargs["hidden_states"]).flatten(0, 1)  # (B * T, D)
                if not kept:
                    kept.append(hidden.new_empty(len(taps) + 1, len(at), hidden.shape[-1]))
                for row in rows:
                    torch.index_select(hidden, 0, at, out=kept[0][row])

            return hook

        by_layer: dict[int, list[int]] = {}
        for row, (layer, _) in enumerate(taps):
            by_layer.setdefault(layer, []).append(row)
        hooks = [
            self._layers[layer].register_forward_pre_hook(copy_into(rows), with_kwargs=True)
            for layer, rows in by_layer.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
