"""A prompt on its way through the model, and completions in the making: tokens, text, stops."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from effchal.decoding.contrast import DROPPED_WHEN_SCORING, Contrast, Greedy, next_logprobs
from effchal.decoding.detokenize import TokenTexts, end_of_first_line, find_stop, stop_begun
from effchal.decoding.kv_cache import RowCache
from effchal.decoding.layer_logits import NO_LAYER, LayerLogits, Tap
from effchal.decoding.sampling import SamplingParams, most_probable, penalise_repetition
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.decoding.transfer import upload
from effchal.model.adapter_names import BASE

SCORED_AT_ONCE = 64  # positions whose logits are in memory together


@dataclass
class TokenScore:
    """One token of the answer.

    `logprob` and `top_logprobs` are of the distribution decoded from: after contrast and repetition
    penalty, full vocabulary, temperature 1. `base_logprob` is the mature layer's own.
    """

    text: str
    logprob: float
    base_logprob: float
    top_logprobs: dict[str, float] = field(default_factory=dict)
    layer: int | None = None  # that a contrast chose, where there was a choice of tokens
    is_predicted: bool = True  # False for the first token of an echoed prompt; its values are 0


@dataclass
class Completion:
    tokens: list[TokenScore]
    finish_reason: str  # "stop" or "length"
    ids: list[int]  # the answer's, before stops cut it
    end: TokenScore | None = None  # the end token that the model chose; its text is ""

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def all_tokens(self) -> list[TokenScore]:
        """With the end token."""
        return self.tokens if self.end is None else [*self.tokens, self.end]


class Echo:
    """The prompt's own tokens with their log-probabilities, scored while it is prefilled."""

    def __init__(
        self, tokenizer: Any, prompt_ids: list[int], params: SamplingParams, model: TappedModel
    ) -> None:
        # Position of the first token reported; behind the last one, there is none.
        self._start = start = params.echo_from or 0
        self._ids, self._model = prompt_ids, model
        self._contrast = params.contrast if params.contrast_prompt else Greedy()
        self._alternatives = params.alternatives
        # The client's own special tokens are part of its text.
        self._texts = TokenTexts(tokenizer, spell_special=True)
        self._position = 0  # of the next state
        # HELM expects 0.0 of the first token. Nothing is left to report of a prompt that is its
        # beginning-of-sequence token alone.
        self.tokens = [
            TokenScore(self._texts.add(first), 0.0, 0.0, is_predicted=False)
            for first in prompt_ids[start : start + 1]
        ]

    def feed(self, states: Tensor, taps: tuple[Tap, ...]) -> None:
        """states: (K + 1, T, D), of the prompt's next T positions."""
        first = self._position
        self._position += states.shape[1]
        begin = max(self._start, first)
        end = min(self._position, len(self._ids) - 1)  # the last one predicts no prompt token
        for at in range(begin, end, SCORED_AT_ONCE):
            stop = min(at + SCORED_AT_ONCE, end)
            self._score(states[:, at - first : stop - first], self._ids[at + 1 : stop + 1], taps)
        if self._position == len(self._ids) and self.tokens:
            self.tokens[-1].text += self._texts.rest()

    def _score(self, states: Tensor, targets: list[int], taps: tuple[Tap, ...]) -> None:
        logits = self._model.lm_head.logits(states, taps)
        at = torch.arange(len(targets), device=states.device)
        logprobs, layers = next_logprobs(self._contrast, logits, at)
        if not torch.isfinite(logprobs.amax(-1)).all():
            raise FloatingPointError("the model's logits are not finite")
        wanted = torch.tensor(targets, device=states.device)[:, None]
        found = logprobs.gather(1, wanted)[:, 0].clamp_min(DROPPED_WHEN_SCORING).tolist()
        base = logits.log_p.gather(1, wanted)[:, 0].tolist()
        best = most_probable(logprobs, self._alternatives)
        for i, (token_id, layer) in enumerate(zip(targets, layers.tolist(), strict=True)):
            top = by_text(best[i], self._texts)
            text = self._texts.add(token_id)
            self.tokens.append(TokenScore(text, found[i], base[i], top, layer_or_none(layer)))


class Sequence:
    """State of one completion. Those of one prompt share a cache row until their tokens differ."""

    def __init__(
        self, tokenizer: Any, prompt_ids: list[int], params: SamplingParams, model: TappedModel
    ) -> None:
        self.params = params
        self.echo: Echo | None = None
        if params.echo_from is not None:
            self.echo = Echo(tokenizer, prompt_ids, params, model)
        self.texts = TokenTexts(tokenizer, prompt_ids)
        self.generator = torch.Generator(model.device)
        if params.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(params.seed)
        self.seen: Tensor | None = None  # (V,) bool, where a penalty needs it
        if params.repetition_penalty != 1:
            self.seen = torch.zeros(model.vocabulary, dtype=torch.bool, device=model.device)
            self.seen.index_fill_(0, upload(prompt_ids, model.device), True)
        self.tokens: list[TokenScore] = []
        self.ids: list[int] = []
        self.end_token: TokenScore | None = None
        self.finish_reason = "length" if params.max_new_tokens == 0 else ""
        self.error: Exception | None = None
        # Stop sequences may name special tokens, which the answer's text does not show.
        self._spelled: list[str] = []  # what each token adds to the text that is searched
        self._searched = ""

    @property
    def done(self) -> bool:
        return bool(self.finish_reason)

    def add(self, token_id: int, token: TokenScore) -> None:
        """Append a token and set its text; ends at a stop sequence or at the last token allowed."""
        self.ids.append(token_id)
        if self.seen is not None:
            self.seen[token_id] = True
        token.text = self.texts.add(token_id)
        self.tokens.append(token)
        searched, spelled = len(self._searched), self._spelled
        spelled.append(token.text or self.texts.special(token_id))
        self._searched += spelled[-1]
        cut = find_stop(self._searched, self.params.stops, searched)
        if cut is None and self.params.first_line:
            spelled = [each.text for each in self.tokens]
            cut = end_of_first_line("".join(spelled))
        if cut is not None:
            self.tokens = cut_tokens(self.tokens, spelled, cut)
            self.finish_reason = "stop"
        elif len(self.tokens) == self.params.max_new_tokens:
            self.end("length")

    def add_end(self, token_id: int, token: TokenScore) -> None:
        """End with an end token, which has a log-probability and no text."""
        self.ids.append(token_id)
        token.text = ""
        self.end_token = token
        self.end("stop")
        # A stop sequence may begin in the text and end with this token.
        searched = len(self._searched)
        cut = find_stop(self._searched + self.texts.special(token_id), self.params.stops, searched)
        if cut is not None and cut < searched:
            self.tokens = cut_tokens(self.tokens, self._spelled, cut)

    def end(self, finish_reason: str) -> None:
        self.finish_reason = finish_reason
        if self.tokens:
            self.tokens[-1].text += self.texts.rest()

    def fail(self, error: Exception) -> None:
        """End this sequence alone; its neighbours go on."""
        self.finish_reason, self.error = "error", error

    def stable_tokens(self) -> int:
        """Tokens that neither a stop sequence nor a character's missing bytes can still change."""
        count = len(self.tokens)
        if self.done:
            return count
        unsure = stop_begun(self._searched, self.params.stops)
        while count and (unsure > 0 or not self.tokens[count - 1].text):
            count -= 1
            unsure -= len(self._spelled[count])
        return count

    def completion(self) -> Completion:
        if self.error is not None:
            raise self.error
        echoed = self.echo.tokens if self.echo else []
        return Completion(echoed + self.tokens, self.finish_reason, self.ids, self.end_token)


@dataclass
class Row:
    """One row of the cache and the sequences that still agree on its tokens."""

    sequences: list[Sequence]
    prompt_ids: list[int]
    adapter: str
    next_id: int = -1  # chosen, not yet seen by the model


@dataclass
class Prefill:
    """A prompt on its way through the model, with the cache of its own that it fills."""

    prompt_ids: list[int]
    sequences: list[Sequence]
    cache: RowCache  # of one row
    adapter: str = BASE
    reused_tokens: int = 0  # whose keys and values were known already

    @property
    def echoes(self) -> list[Echo]:
        return [each.echo for each in self.sequences if each.echo is not None]

    @property
    def left(self) -> int:
        """Tokens that the model has not seen yet."""
        return len(self.prompt_ids) - self.cache.lengths[0]

    def chunk(self, tokens: int, device: torch.device) -> NewTokens:
        """The next tokens, at most so many."""
        start = self.cache.lengths[0]
        ids = upload([self.prompt_ids[start : start + tokens]], device)
        return NewTokens(self.cache, 0, ids, adapters=named([self.adapter]))


def named(adapters: list[str]) -> tuple[str, ...]:
    """The adapters of some rows; none where all rows go as the model stands."""
    return tuple(adapters) if any(adapters) else ()


def penalised_logprobs(
    contrast: Contrast, sequences: list[Sequence], logits: LayerLogits, at: Tensor
) -> tuple[Tensor, Tensor]:
    """(R, V) log-probabilities after contrast and repetition penalty, and (R,) layers."""
    if all(each.seen is None for each in sequences):
        return next_logprobs(contrast, logits, at)
    scores, layers = contrast.scores(logits, at)
    for i, each in enumerate(sequences):
        if each.seen is not None:
            penalty = each.params.repetition_penalty
            scores[i] = penalise_repetition(scores[i], each.seen, penalty)
    return scores.log_softmax(-1), layers


def layer_or_none(layer: float) -> int | None:
    return None if layer == NO_LAYER else int(layer)


def by_text(best: list[tuple[int, float]], texts: TokenTexts) -> dict[str, float]:
    """Log-probabilities of next tokens by text; of ids with the same text the best counts."""
    top: dict[str, float] = {}
    for token_id, value in best:
        top.setdefault(texts.peek(token_id), value)
    return top


def cut_tokens(tokens: list[TokenScore], spelled: list[str], length: int) -> list[TokenScore]:
    """The tokens that spell the first `length` characters; the last one's text is cut, too.

    Args:
        spelled: what each token adds to those characters: its text, or a special token's name.
    """
    kept: list[TokenScore] = []
    start = 0
    for token, characters in zip(tokens, spelled, strict=False):
        if start >= length:
            break
        token.text = token.text[: length - start]
        kept.append(token)
        start += len(characters)
    return kept
