"""The model as decoding sees it: ids -> states of chosen layers at chosen positions -> logits."""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effchal.decoding.contrast import Contrast
from effchal.decoding.fused_steps import chunk_of, graph_step, is_step_of_all_rows
from effchal.decoding.kv_cache import RowCache, additive
from effchal.decoding.layer_logits import Tap
from effchal.decoding.layer_states import tapped
from effchal.decoding.library_cache import LibraryCache, run_row
from effchal.decoding.lm_head import LMHead
from effchal.decoding.transfer import upload
from effchal.kernels.fused_forward import Chunk, FusedForward, fused_forward
from effchal.kernels.step_graphs import Record, StepGraphs
from effchal.model.adapters import LibraryAdapters
from effchal.model.device import multiplies_bfloat16
from effchal.model.route import Decoding, logits_head, require_layer_states, route_of
from effchal.model.structure import (
    attention_name,
    backbone,
    causal_lm,
    final_norm,
    layers_of,
    max_positions,
    rope_switch,
    set_attention,
)

log = logging.getLogger(__name__)
MEASURED, SPREAD = (8, 16), 256  # tokens


@dataclass(frozen=True)
class NewTokens:
    """Next tokens of rows first, first + 1, ... of a cache."""

    cache: RowCache
    first: int
    ids: Tensor  # (rows, new) int64
    shared: int = 0  # tokens that all of these rows of one adapter begin with
    adapters: tuple[str, ...] = ()  # of each row, where the model has several


class TappedModel:
    """A causal language model with its head taken apart, so that one product serves many layers.

    Works with peft adapters (also one on the head), NF4, tied and untied heads.
    """

    def __init__(self, model: nn.Module, record: Record | None = None) -> None:
        """record: records decode steps to do them again; None runs each as it comes."""
        self._whole = whole = causal_lm(model)
        self.route = route_of(model)
        set_attention(whole)  # flash attention and packed rows take no mask of ours
        self._additive_masks = attention_name(whole.config) == "eager"
        self.config: Any = whole.config.get_text_config()
        self.device = next(model.parameters()).device
        # Of states, and so of the cache; NF4 packs weights in uint8.
        self.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        if self.dtype is torch.bfloat16 and not multiplies_bfloat16(self.device):
            log.warning(
                "model.dtype=bfloat16: no arithmetic for it on this CPU, so decoding is many "
                "times slower than with model.dtype=auto, which takes float32 here (a bundle keeps "
                "the dtype that it was trained with)"
            )
        self.num_layers: int = self.config.num_hidden_layers
        self.tied: bool = bool(self.config.tie_word_embeddings)
        self.max_positions: int = max_positions(self.config)
        self.vocabulary: int = self.config.vocab_size
        self.backbone = backbone(model)
        self._layers: Any = layers_of(model) if self.route.taps else None
        self._norm: Any = final_norm(model) if self.route.taps else None
        self.lm_head = LMHead(logits_head(model), self.device)
        self.adapters = LibraryAdapters(model)
        self._fused: FusedForward | None = None
        if self.route.decoding is Decoding.fused and self._layers is not None:
            self._fused = fused_forward(self.backbone, self._layers, self._norm, self.config)
        self._graphs: StepGraphs | None = None
        if record is not None and self._fused is not None:
            self._graphs = StepGraphs(record, self._fused.scratch)

    @property
    def reads_in_chunks(self) -> bool:
        """Whether a prompt may go through in chunks, and a row's beginning be used again."""
        return self.route.decoding in (Decoding.fused, Decoding.rows)

    @property
    def is_fused(self) -> bool:
        return self._fused is not None

    @functools.cached_property
    @torch.inference_mode()
    def bytes_per_token(self) -> int:
        """Of a row's cache, measured; of what does not grow, a part of SPREAD tokens' worth."""
        sizes = []
        for tokens in MEASURED:
            cache = self.new_cache()
            cache.resize(1, tokens)
            cache.add_row()
            ids = torch.ones((1, tokens), dtype=torch.int64, device=self.device)
            self.extend([NewTokens(cache, 0, ids)], (), ids[0, :1])
            sizes += [cache.nbytes()]
        grows = (sizes[1] - sizes[0]) / (MEASURED[1] - MEASURED[0])
        constant = max(0.0, sizes[0] - grows * MEASURED[0])
        return max(1, math.ceil(grows + constant / SPREAD))

    def check(self, contrast: Contrast) -> None:
        """Raises ConfigError where it compares layers, and this model does not show them."""
        if contrast.layers:
            require_layer_states(self._whole)

    def new_cache(self) -> RowCache:
        return RowCache(self._graphs is not None) if self.reads_in_chunks else LibraryCache()

    def load_adapter(self, folder: Path) -> str:
        """Put one more adapter into a base model, for the rows that name it; its name.

        Raises:
            ConfigError: it is no adapter for this model, or more than a plain one.
        """
        self._drop_graphs()
        name = self.adapters.load(folder)
        if self._fused is not None and not self._fused.add_adapter(name, self._layers):
            log.warning("%s: decoding by the library's layers, which is slower", folder)
            self._fused = None
        return name

    def drop_adapter(self, name: str) -> None:
        """Free an adapter's memory. No row may name it any more."""
        self._drop_graphs()
        self.adapters.drop(name)
        if self._fused is not None:
            self._fused.drop_adapter(name)

    def _drop_graphs(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()

    @property
    def shares_prefix(self) -> bool:
        return self._fused is not None and self._fused.shares_prefix

    def fits_together(self, tokens: int) -> bool:
        """Whether so many new tokens of several caches can go through one call of `extend`."""
        return self._fused is not None and tokens <= self._fused.max_tokens

    def extend(self, new: list[NewTokens], taps: tuple[Tap, ...], at: Tensor) -> Tensor:
        """Give rows their next tokens; the tapped states, see `states`.

        Args:
            new: one; or several, each of a cache of its own, where they fit together.
            at: (P,) int64, positions among the new tokens, in order and row by row.
        """
        if not self.reads_in_chunks:
            return self._extend_by_library(new, taps, at)
        one_each = all(each.ids.shape[1] == 1 for each in new)
        few = self.fits_together(sum(each.ids.numel() for each in new))
        use_fused = self._fused is not None and (one_each or few)
        if use_fused and self._graphs is not None and is_step_of_all_rows(new):
            step = graph_step(new[0], self.config, taps, at, self._fused_states)
            states = self._exit_norm(self._graphs.states(step), taps)
        elif use_fused:
            chunks = [chunk_of(each, self.config, True) for each in new]
            states = self._exit_norm(self._fused_states(chunks, taps, at), taps)
        else:
            (each,) = new
            chunk = chunk_of(each, self.config, False)
            tokens = chunk.ids, chunk.position_ids
            states = self.states(*tokens, new[0].cache, chunk.mask, taps, at, chunk.adapters)
        for each in new:
            each.cache.commit()
        return states

    def _extend_by_library(self, new: list[NewTokens], taps: tuple[Tap, ...], at: Tensor) -> Tensor:
        """`extend`, one row after the other."""
        switch, reread = rope_switch(self.config), self.route.decoding is Decoding.reread
        parts, first = [], 0
        for each in new:
            cache = each.cache
            assert isinstance(cache, LibraryCache)
            for row, ids in enumerate(each.ids, each.first):
                here = at[(at >= first) & (at < first + len(ids))] - first
                first += len(ids)
                read, state = cache.extend_row(row, ids, switch, reread)
                here = here + len(read) - len(ids)
                adapters = each.adapters[row - each.first :][:1]
                parts.append(self._row_states(cache, row, read, state, taps, here, adapters))
        return torch.cat(parts, dim=1)

    def _row_states(
        self,
        cache: LibraryCache,
        row: int,
        read: list[int],
        state: Any,
        taps: tuple[Tap, ...],
        at: Tensor,
        adapters: tuple[str, ...],
    ) -> Tensor:
        """(K + 1, len(at), D) at positions of what a row reads next."""

        def run() -> Tensor:
            keep = self.route.decoding is Decoding.library
            first = cache.lengths[row] - len(read)
            hidden, after = run_row(self.backbone, read, state, first, keep)
            cache.keep(row, after)
            return hidden

        return self._collect(run, taps, at, adapters)

    def read_alone(
        self, ids: list[int], taps: tuple[Tap, ...], at: Tensor, adapters: tuple[str, ...] = ()
    ) -> Tensor:
        """(K + 1, P, D) states of a text at positions (P,), without any cache."""

        def run() -> Tensor:
            return run_row(self.backbone, ids, None, 0, False)[0]

        return self._collect(run, taps, at, adapters)

    def _fused_states(self, chunks: list[Chunk], taps: tuple[Tap, ...], at: Tensor) -> Tensor:
        """What `states` gives before exit norms, by the fused forward."""
        assert self._fused is not None
        states = self._norm.weight.new_empty(len(taps) + 1, len(at), self.config.hidden_size)
        kept: dict[int, list[Tensor]] = {}
        for row, (layer, _) in enumerate(taps):
            kept.setdefault(layer, []).append(states[row])
        states[-1] = self._fused(chunks, at, kept)
        return states

    def states(
        self,
        ids: Tensor,
        position_ids: Tensor,
        cache: RowCache | None,
        mask: Any,
        taps: tuple[Tap, ...],
        at: Tensor,
        adapters: tuple[str, ...] = (),
    ) -> Tensor:
        """Run the backbone and keep the states of the tapped layers at some positions.

        Args:
            ids, position_ids: (B, T) int64.
            cache: what attention reads and extends, or None.
            mask: the backbone's attention_mask.
            taps: K layers below the mature one.
            at: (P,) int64, positions of the flattened (B * T).
            adapters: of each row, where the model has several.

        Returns:
            (K + 1, P, D), the mature layer's last.
        """

        def run() -> Tensor:
            return self.backbone(
                input_ids=ids,
                position_ids=position_ids,
                attention_mask=additive(mask, self.dtype) if self._additive_masks else mask,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state.flatten(0, 1)

        return self._collect(run, taps, at, adapters)

    def _collect(
        self,
        run: Callable[[], Tensor],
        taps: tuple[Tap, ...],
        at: Tensor,
        adapters: tuple[str, ...],
    ) -> Tensor:
        """(K + 1, P, D) at positions `at` (P,) of the (N, D) that `run` makes of the backbone."""
        self.adapters.use(adapters)
        if taps:
            require_layer_states(self._whole)
        kept: list[Tensor] = []
        with tapped(self._layers, taps, at, kept):
            mature = run().index_select(0, at)
        if not taps:
            return mature[None]
        states = kept[0]
        states[-1] = mature
        return self._exit_norm(states, taps)

    def _exit_norm(self, states: Tensor, taps: tuple[Tap, ...]) -> Tensor:
        normed = [row for row, (_, exit_norm) in enumerate(taps) if exit_norm]
        if normed:
            at = upload(normed, states.device)
            states[at] = self._norm(states[at])
        return states
