"""Try a model on random texts: does each faster way give what the library gives, text by text?"""

import functools
import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from effchal.admission.measure import (
    FAR,
    ROUNDING_OF_HEAD,
    ROUNDING_OF_HEAD_16_BITS,
    ROUNDING_OF_LAYERS,
)
from effchal.admission.trial import Trial
from effchal.config import ConfigError
from effchal.decoding.layer_logits import Tap
from effchal.decoding.taps import TappedModel
from effchal.kernels.decoder_layer import fused_layers
from effchal.model.route import Decoding, Route, route_of, set_route
from effchal.model.structure import OwnEnd, head, layers_of, max_positions, set_attention
from effchal.model.tokenizer import ModelError

log = logging.getLogger(__name__)
ALONE = "examples cannot share a row here, so training takes one example at a time"


class Check(Trial):
    """Finds the fastest way that gives what the library gives."""

    @torch.no_grad()
    def route(self, start: Route, training: bool, decoding: bool) -> Route:
        """The fastest route, none faster than `start`, that gives the library's own results."""
        before = route_of(self.model)
        self.prefixes_agree = self.prefixes_agree and start.decoding is not Decoding.reread
        try:
            route = self._end(start)
            if training:
                route = self._fused(self._packed(route) if route.packed else route)
            if decoding:
                route = self._decoding(self._taps(route))
            return route
        finally:
            set_route(self.model, before)
            self._restore_attention()

    def _end(self, route: Route) -> Route:
        states, logits = self.library[0]
        ends: list[tuple[bool, Callable]] = [(True, head(self.model)), (False, OwnEnd(self.model))]
        for plain, end in ends:
            if plain and not route.plain_head:
                continue
            limit = ROUNDING_OF_HEAD if self.exact else ROUNDING_OF_HEAD_16_BITS
            logits_agree = self._same(functools.partial(end, states), logits, limit)
            loss = functools.partial(self._loss, end)
            if logits_agree and self._same(loss, self._library_loss, limit):
                return replace(route, plain_head=plain)
        raise ModelError(f"{self.name}: the logits of its states are not those of the model")

    def _packed(self, route: Route) -> Route:
        set_route(self.model, route)
        if self.trains_right():
            return route
        note = f"{self.name}: {ALONE}"
        return replace(route, packed=False, notes=(*route.notes, note))

    def _fused(self, route: Route) -> Route:
        """Whether the layers are put together as their parts say, at any position of a text."""
        if not self.sizes.thorough:
            return route
        if not route.packed:
            return replace(route, fused=False)
        set_route(self.model, route)
        far = min(max_positions(self.whole.config.get_text_config()), FAR) - self.sizes.long
        try:
            wanted = self.packed(far)
            with fused_layers(layers_of(self.model)) as known:
                agree = (
                    known
                    and self.trains_right(ROUNDING_OF_LAYERS)
                    and self._same(lambda: self.packed(far), wanted, ROUNDING_OF_LAYERS)
                )
        except ConfigError:  # no list of layers
            agree = False
        return replace(route, fused=agree)

    def _taps(self, route: Route) -> Route:
        if not (route.taps and self.sizes.thorough):
            return route
        set_route(self.model, replace(route, decoding=Decoding.reread))
        set_attention(self.model)
        count = self.whole.config.get_text_config().num_hidden_layers
        taps: tuple[Tap, ...] = tuple((layer, False) for layer in range(count))
        ids = self.texts[0]

        def found() -> Tensor:
            at = torch.arange(len(ids), device=self.device)
            return TappedModel(self.model).read_alone(ids, taps, at)[:-1]

        def library() -> Tensor:
            rows = torch.tensor([ids], device=self.device)
            output = self.whole(input_ids=rows, use_cache=False, output_hidden_states=True)
            return torch.stack([output.hidden_states[layer][0] for layer, _ in taps])

        if self._same(found, library):
            return route
        note = f"{self.name}: the states of its layers are not found, so there is no DoLa or SLED"
        return replace(route, taps=False, notes=(*route.notes, note))

    def _decoding(self, route: Route) -> Route:
        ways = list(Decoding)
        fastest = max(ways.index(route.decoding), 0 if route.fused else ways.index(Decoding.rows))
        for decoding in ways[fastest:]:
            set_route(self.model, replace(route, decoding=decoding))
            tapped = self._decodes_right()
            if tapped is None:
                continue
            if decoding is Decoding.fused and not tapped.is_fused:
                decoding = Decoding.rows
            slowly = f"{self.name} decodes slowly: "
            notes = tuple(note for note in route.notes if not note.startswith(slowly))
            if not tapped.reads_in_chunks:
                notes = (*notes, f"{slowly}{decoding}")
            return replace(route, decoding=decoding, notes=notes)
        raise ModelError(
            f"{self.name}: no way of decoding gives what the model itself gives; not supported"
        )

    def _decodes_right(self) -> TappedModel | None:
        """The model by its present route, if decoding and scoring give what the library gives."""
        try:
            tapped = TappedModel(self.model)
        except Exception as error:
            log.debug("%s: %r", self.name, error)
            return None
        text_of = [0, 1] * (self.sizes.steps + 1)
        decoded = functools.partial(self.decoded, tapped)
        limit = ROUNDING_OF_LAYERS if tapped.is_fused and self.sizes.thorough else None
        decodes = self._same(decoded, self.expected, limit, text_of)
        if not self.sizes.thorough:
            return tapped if decodes else None
        scores = decodes and self._same(functools.partial(self.scores, tapped), self.scored)
        return tapped if scores else None
