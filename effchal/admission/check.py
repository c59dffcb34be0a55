"""Try a model on random texts: does each faster way give what the library gives, text by text?"""

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.admission.measure import (
    ROUNDING,
    ROUNDING_16_BITS,
    ROUNDING_OF_HEAD,
    ROUNDING_OF_HEAD_16_BITS,
    ROUNDING_OF_LAYERS,
    Sizes,
    furthest,
    random_texts,
    within,
)
from effchal.config import ConfigError
from effchal.decoding.contrast import Greedy
from effchal.decoding.layer_logits import Tap
from effchal.decoding.score import Scorer
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.kernels.attention import packed_hidden_states
from effchal.kernels.decoder_layer import fused_layers
from effchal.kernels.loss import chunked_loss
from effchal.model.route import Decoding, Route, route_of, set_route
from effchal.model.structure import (
    OwnEnd,
    attention_name,
    backbone,
    causal_lm,
    head,
    layers_of,
    max_positions,
    set_attention,
)
from effchal.model.tokenizer import ModelError

log = logging.getLogger(__name__)
ALONE = "examples cannot share a row here, so training takes one example at a time"


class Check:
    """Tries one model on random texts.

    Args:
        model: any causal language model of transformers, adapted or not.
        sizes: of the texts.
    """

    def __init__(self, model: nn.Module, sizes: Sizes) -> None:
        self.model, self.whole = model, causal_lm(model)
        self.attention = attention_name(self.whole.config)  # the model gets it back
        self.sizes = sizes = within(sizes, max_positions(self.whole.config.get_text_config()))
        first = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
        self.device, self.exact = first.device, first.dtype is torch.float32
        self.name = type(self.whole).__name__
        self.texts = random_texts(sizes, self.whole.config.get_text_config().vocab_size)
        try:
            self.library = [self.alone(ids) for ids in self.texts]
        except Exception as error:
            raise ModelError(f"{self.name} does not run in the library itself: {error}") from error
        # Not so where an embedding or a choice of keys depends on how long the whole text is.
        self.prefixes_agree = not sizes.thorough or all(
            self._same(functools.partial(self._alone_up_to, end), self.library[0][0][end - 1][None])
            for end in (sizes.long // 3, sizes.long // 2, sizes.long - 1)
        )

    @torch.no_grad()
    def route(self, start: Route, training: bool, decoding: bool) -> Route:
        """The fastest route, none faster than `start`, that gives the library's own results."""
        before = route_of(self.model)
        self.prefixes_agree = self.prefixes_agree and start.decoding is not Decoding.reread
        try:
            route = self._end(start)
            if training and route.packed:
                route = self._fused(self._packed(route))
            if decoding:
                route = self._decoding(self._taps(route))
            return route
        finally:
            set_route(self.model, before)
            self._restore_attention()

    def _restore_attention(self) -> None:
        self.whole.set_attn_implementation(self.attention)

    @torch.no_grad()
    def alone(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """((T, D) states, (T, V) logits) of one text by the library alone, without a cache."""
        kept: list[Tensor] = []
        hook = backbone(self.model).register_forward_hook(
            lambda module, args, output: kept.append(output.last_hidden_state[0])
        )
        set_attention(self.model)
        try:
            rows = torch.tensor([ids], device=self.device)
            logits = self.whole(input_ids=rows, use_cache=False).logits[0]
        finally:
            hook.remove()
        return kept[0], logits

    def _alone_up_to(self, end: int) -> Tensor:
        """(1, D), the last state of the first `end` tokens of the longer text."""
        return self.alone(self.texts[0][:end])[0][-1:]

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

    def _loss(self, end: Any) -> Tensor:
        """(1, 1), as training computes it."""
        states, targets = self.library[0][0], torch.tensor(self.texts[0], device=self.device)
        return chunked_loss(end, states, targets)[None, None]

    def _library_loss(self) -> Tensor:
        targets = torch.tensor(self.texts[0], device=self.device)
        return F.cross_entropy(self.library[0][1].float(), targets, reduction="sum")[None, None]

    def _packed(self, route: Route) -> Route:
        set_route(self.model, route)
        if self.trains_right():
            return route
        note = f"{self.name}: {ALONE}"
        return replace(route, packed=False, notes=(*route.notes, note))

    def trains_right(self, limit: float | None = None) -> bool:
        """Whether rows of examples give what each text gives alone."""
        self._restore_attention()
        text_of = [0] * len(self.texts[0]) + [1] * len(self.texts[1])
        wanted = torch.cat([states for states, _ in self.library])
        return self._same(self.packed, wanted, limit, text_of)

    def _fused(self, route: Route) -> Route:
        """Whether the layers are put together as our own forward pass puts them together."""
        if not (route.fused and route.packed and self.sizes.thorough):
            return route
        set_route(self.model, route)
        try:
            with fused_layers(layers_of(self.model)) as found:
                return replace(route, fused=found and self.trains_right(ROUNDING_OF_LAYERS))
        except ConfigError:  # no list of layers
            return replace(route, fused=False)

    def packed(self) -> Tensor:
        """(T, D) states of both texts in one row, as training computes them."""
        ids = torch.tensor([[token for text in self.texts for token in text]], device=self.device)
        positions = [position for text in self.texts for position in range(len(text))]
        rows = torch.tensor([positions], device=self.device)
        lengths = tuple(len(text) for text in self.texts)
        return packed_hidden_states(self.model, ids, rows, lengths)[0]

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
        for decoding in ways[ways.index(route.decoding) :]:
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

    def decoded(self, tapped: TappedModel) -> Tensor:
        """(2 * (steps + 1), D): states after both prompts, and after each step of both rows."""
        rows, steps = tapped.new_cache(), self.sizes.steps
        found = []
        for ids, size in zip(self.texts, self.sizes.chunks, strict=True):
            prompt, own = ids[:-steps], tapped.new_cache()
            own.resize(1, len(prompt))
            own.add_row()
            size = size if tapped.reads_in_chunks else len(prompt)
            for start in range(0, len(prompt), size):
                states = self._extend(tapped, own, [prompt[start : start + size]])
            found.append(states[-1:])
            rows.copy_row(rows.add_row(), own, 0)
        for step in range(-steps, 0):
            found.append(self._extend(tapped, rows, [[ids[step]] for ids in self.texts]))
        return torch.cat(found)

    def _extend(self, tapped: TappedModel, cache: Any, ids: list[list[int]]) -> Tensor:
        """(rows * new, D) mature states of new tokens."""
        new = torch.tensor(ids, device=self.device)
        at = torch.arange(new.numel(), device=self.device)
        return tapped.extend([NewTokens(cache, 0, new)], (), at)[-1]

    def expected(self) -> Tensor:
        """What `decoded` must give, from whole texts."""
        steps = self.sizes.steps
        ends = [(number, len(ids) - steps) for number, ids in enumerate(self.texts)]
        for step in range(-steps + 1, 1):
            ends += [(number, len(ids) + step) for number, ids in enumerate(self.texts)]
        return torch.stack([self._state(number, end) for number, end in ends])

    def _state(self, number: int, end: int) -> Tensor:
        """The last state of the first `end` tokens of a text."""
        if self.prefixes_agree:
            return self.library[number][0][end - 1]
        return self.alone(self.texts[number][:end])[0][-1]

    def asked(self) -> tuple[list[int], list[list[int]]]:
        """A prompt and three continuations."""
        prompt, steps = self.texts[0][: -self.sizes.steps], self.sizes.steps
        return prompt, [self.texts[0][-steps:], self.texts[1][: steps + 1], self.texts[1][:1]]

    def scores(self, tapped: TappedModel) -> Tensor:
        """(3, 1) log-probabilities of the continuations."""
        (found,) = Scorer(tapped).score(*self.asked(), [Greedy()])
        return torch.tensor(found.logprobs, device=self.device)[:, None]

    def scored(self) -> Tensor:
        """What `scores` must give."""
        prompt, continuations = self.asked()
        return torch.stack([self._logprob(prompt, each) for each in continuations])[:, None]

    def _logprob(self, prompt: list[int], continuation: list[int]) -> Tensor:
        logits = self.alone([*prompt, *continuation[:-1]])[1][len(prompt) - 1 :]
        targets = torch.tensor(continuation, device=self.device)[:, None]
        return logits.float().log_softmax(-1).gather(1, targets).sum()

    def _same(
        self,
        found: Callable[[], Tensor],
        wanted: Tensor | Callable[[], Tensor],
        limit: float | None = None,
        text_of: list[int] | None = None,
    ) -> bool:
        """Whether two tensors (..., D) agree up to rounding; an error counts as a difference."""
        try:
            expected = wanted if isinstance(wanted, Tensor) else wanted()
            off = (found().float() - expected.float()).flatten(0, -2)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            log.debug("%s: %r", self.name, error)
            return False
        worst = furthest(off, expected, text_of, self.exact)
        log.debug("%s: off by %.2g", self.name, worst)
        return worst <= (limit or (ROUNDING if self.exact else ROUNDING_16_BITS))
