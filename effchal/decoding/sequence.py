"""One completion in the making: its tokens, their text, its stops."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from effchal.decoding.contrast import DROPPED_WHEN_SCORING
from effchal.decoding.detokenize import TokenTexts, end_of_first_line, find_stop, stop_begun
from effchal.decoding.layers import Tap, layer_or_none
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.taps import TappedModel

SCORED_AT_ONCE = 64  # positions whose logits are in memory together


@dataclass
class TokenScore:
    """One token of the answer.

    `logprob` and `top_logprobs` are of the distribution decoded from: after contrast and repetition penalty, full
    vocabulary, temperature 1. `base_logprob` is the mature layer's own.
    """

    text: str
    logprob: float
    base_logprob: float
    top_logprobs: dict[str, float] = field(default_factory=dict)
    layer: int | None = (
        None  # DoLa: the one that this position was contrasted with, if it had a choice of tokens
    )


@dataclass
class Completion:
    tokens: list[TokenScore]
    finish_reason: str  # "stop" or "length"
    ids: list[int]  # the answer's, before stops cut it

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


class Echo:
    """The prompt's own tokens with their log-probabilities, taken in as its states come out of the prefill."""

    def __init__(
        self, tokenizer: Any, prompt_ids: list[int], params: SamplingParams, model: TappedModel
    ) -> None:
        self._ids, self._params, self._model = prompt_ids, params, model
        self._texts = TokenTexts(tokenizer)
        self._position = 0  # of the next state
        # HELM expects 0.0 of the first token, which nothing predicts.
        self.tokens = [TokenScore(self._texts.add(prompt_ids[params.echo_from]), 0.0, 0.0)]

    def feed(self, states: Tensor, taps: tuple[Tap, ...]) -> None:
        """states: (K + 1, T, D), of the prompt's next T positions."""
        start = self._position
        self._position += states.shape[1]
        begin = max(self._params.echo_from, start)
        end = min(
            self._position, len(self._ids) - 1
        )  # the last position predicts no token of the prompt
        for at in range(begin, end, SCORED_AT_ONCE):
            here = slice(at, min(at + SCORED_AT_ONCE, end))
            self._score(
                states[:, here.start - start : here.stop - start],
                self._ids[at + 1 : here.stop + 1],
                taps,
            )
        if self._position == len(self._ids):
            self.tokens[-1].text += self._texts.rest()

    def _score(self, states: Tensor, targets: list[int], taps: tuple[Tap, ...]) -> None:
        logits = self._model.logits(states, taps)
        contrast = self._params.contrast if self._params.contrast_prompt else None
        scores, layers = logits.scores(contrast, torch.arange(len(targets), device=states.device))
        logprobs = logits.log_p if contrast is None else scores.log_softmax(-1)
        if not torch.isfinite(logprobs.amax(-1)).all():
            raise FloatingPointError("the model's logits are not finite")
        wanted = torch.tensor(targets, device=states.device)[:, None]
        asked = logprobs.gather(1, wanted)[:, 0].clamp_min(DROPPED_WHEN_SCORING).tolist()
        plain = logits.log_p.gather(1, wanted)[:, 0].tolist()
        likely, won = likeliest(logprobs, self._params.alternatives), layers.tolist()
        for i, token_id in enumerate(targets):
            top = spell(likely[i], self._texts)
            layer = layer_or_none(won[i])
            self.tokens.append(
                TokenScore(self._texts.add(token_id), asked[i], plain[i], top, layer)
            )


class Branch:
    """State of one completion. Several branches of one prompt share a row of the cache until their tokens differ."""

    def __init__(
        self, tokenizer: Any, prompt_ids: list[int], params: SamplingParams, model: TappedModel
    ) -> None:
        self.params = params
        self.echo = None if params.echo_from is None else Echo(tokenizer, prompt_ids, params, model)
        self.texts = TokenTexts(tokenizer, prompt_ids)
        self.generator = torch.Generator(model.device)
        self.generator.manual_seed(
            params.seed
        ) if params.seed is not None else self.generator.seed()
        self.seen: Tensor | None = None  # (V,) bool, where a penalty needs it
        if params.repetition_penalty != 1:
            self.seen = torch.zeros(model.vocabulary, dtype=torch.bool, device=model.device)
            self.seen[torch.tensor(prompt_ids, device=model.device)] = True
        self.tokens: list[TokenScore] = []
        self.ids: list[int] = []
        self.finish_reason = "length" if params.max_new_tokens == 0 else ""
        self.error: Exception | None = None
        self._text = ""

    @property
    def done(self) -> bool:
        return bool(self.finish_reason)

    def add(
        self, token_id: int, logprob: float, plain: float, top: dict[str, float], layer: int | None
    ) -> None:
        """Take the next token; ends the branch at a stop sequence or at its last token."""
        self.ids.append(token_id)
        if self.seen is not None:
            self.seen[token_id] = True
        self.tokens.append(TokenScore(self.texts.add(token_id), logprob, plain, top, layer))
        searched, self._text = len(self._text), self._text + self.tokens[-1].text
        cut = find_stop(self._text, self.params.stops, searched)
        if cut is None and self.params.first_line:
            cut = end_of_first_line(self._text)
        if cut is not None:
            self.tokens = cut_tokens(self.tokens, cut)
            self.finish_reason = "stop"
        elif len(self.tokens) == self.params.max_new_tokens:
            self.end("length")

    def end(self, finish_reason: str) -> None:
        self.finish_reason = finish_reason
        if self.tokens:
            self.tokens[-1].text += self.texts.rest()

    def fail(self, error: Exception) -> None:
        """End this branch alone; its neighbours go on."""
        self.finish_reason, self.error = "error", error

    def settled(self) -> int:
        """Tokens at the front that neither a stop sequence nor a character's missing bytes can change any more."""
        count = len(self.tokens)
        if self.done:
            return count
        held = stop_begun(self._text, self.params.stops)
        while count and (held > 0 or not self.tokens[count - 1].text):
            count -= 1
            held -= len(self.tokens[count].text)
        return count

    def completion(self) -> Completion:
        if self.error is not None:
            raise self.error
        return Completion(
            (self.echo.tokens if self.echo else []) + self.tokens, self.finish_reason, self.ids
        )


def likeliest(logprobs: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The likeliest ids of each row of (rows, V) log-probabilities, those left out that a contrast dropped."""
    if count == 0:
        return [[]] * len(logprobs)
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [[pair for pair in zip(*row, strict=True) if pair[1] > -math.inf] for row in pairs]


def spell(likely: list[tuple[int, float]], texts: TokenTexts) -> dict[str, float]:
    """Log-probabilities by text."""
    top: dict[str, float] = {}
    for token_id, value in likely:
        top.setdefault(
            texts.peek(token_id), value
        )  # two ids may spell the same; the likelier counts
    return top


def cut_tokens(tokens: list[TokenScore], length: int) -> list[TokenScore]:
    """The tokens that spell the first `length` characters; the last one's text is cut, too."""
    kept, start = [], 0
    for token in tokens:
        if start >= length:
            break
        whole, token.text = len(token.text), token.text[: length - start]
        kept.append(token)
        start += whole
    return kept
