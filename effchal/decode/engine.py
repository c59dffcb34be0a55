"""One model answering one prompt at a time: prefill, decode steps, sampling, stops, log-probabilities."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from effchal.decode.text import TokenTexts, find_stop
from effchal.model import backbone, causal_lm, head

GREEDY_AT_OR_BELOW = 1e-6  # HELM writes temperature 0 as 1e-7
SCORED_AT_ONCE = 256  # prompt positions whose logits are in memory together


@dataclass(frozen=True)
class SamplingParams:
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None  # sample among the k likeliest
    stops: tuple[str, ...] = ()
    alternatives: int = 0  # likeliest tokens reported at each position
    echo_from: int | None = None  # report the prompt from this position on, with its log-probabilities
    seed: int | None = None  # None: a fresh one


@dataclass
class TokenScore:
    """One token of the answer. Log-probabilities are the model's own: full vocabulary, temperature 1."""

    text: str
    logprob: float
    top_logprobs: dict[str, float] = field(default_factory=dict)


@dataclass
class Completion:
    tokens: list[TokenScore]
    finish_reason: str  # "stop" or "length"

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


class Engine:
    """Not thread-safe: one caller at a time."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._backbone, self._head = backbone(model), head(model)
        self._device = next(model.parameters()).device
        config = causal_lm(model).config.get_text_config()
        self.max_positions: int = config.max_position_embeddings  # prompt and answer together
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        self._ends = {tokenizer.eos_token_id, *ends}

    @torch.inference_mode()
    def complete(self, prompt_ids: list[int], params: SamplingParams) -> Completion:
        """Answer one prompt.

        Args:
            prompt_ids: at least one id.

        Raises:
            FloatingPointError: the model's logits are not finite.
        """
        from transformers import DynamicCache

        cache = DynamicCache(config=self._backbone.config)
        hidden = self._prefill(prompt_ids, cache)  # (1, T, D)
        tokens = []
        if params.echo_from is not None:
            start = params.echo_from
            tokens = self._echoed(prompt_ids[start:], hidden[0, start:], params.alternatives)
        answer, finish_reason = self._decode(prompt_ids, hidden[:, -1], cache, params)
        return Completion(tokens + answer, finish_reason)

    def _prefill(self, prompt_ids: list[int], cache: Any) -> Tensor:
        ids = torch.tensor([prompt_ids], device=self._device)
        return self._backbone(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state

    def _decode(
        self, prompt_ids: list[int], hidden: Tensor, cache: Any, params: SamplingParams
    ) -> tuple[list[TokenScore], str]:
        """Tokens after the prompt. hidden: (1, D), of the prompt's last position."""
        generator = torch.Generator(self._device)
        generator.manual_seed(params.seed) if params.seed is not None else generator.seed()
        texts = TokenTexts(self.tokenizer, prompt_ids)
        tokens: list[TokenScore] = []
        text, finish_reason = "", "length"
        while len(tokens) < params.max_new_tokens:
            logprobs = self._logprobs(hidden)[0]  # (V,)
            token_id = sample(logprobs, params, generator)
            if token_id in self._ends:
                finish_reason = "stop"
                break
            top = self._alternatives(logprobs, params.alternatives, texts)
            tokens.append(TokenScore(texts.add(token_id), float(logprobs[token_id]), top))
            searched, text = len(text), text + tokens[-1].text
            cut = find_stop(text, params.stops, searched)
            if cut is not None:
                return cut_tokens(tokens, cut), "stop"
            if len(tokens) < params.max_new_tokens:
                hidden = self._prefill([token_id], cache)[:, -1]
        if tokens:
            tokens[-1].text += texts.rest()
        return tokens, finish_reason

    def _echoed(self, text_ids: list[int], hidden: Tensor, alternatives: int) -> list[TokenScore]:
        """Tokens of a text with their log-probabilities; the first one's is 0.0, as HELM expects it.

        Args:
            hidden: (T, D), beside text_ids.
        """
        texts = TokenTexts(self.tokenizer)
        tokens = [TokenScore(texts.add(text_ids[0]), 0.0)]
        for start in range(0, len(text_ids) - 1, SCORED_AT_ONCE):
            following = text_ids[start + 1 : start + 1 + SCORED_AT_ONCE]
            logprobs = self._logprobs(hidden[start : start + len(following)])  # (positions, V)
            for row, token_id in zip(logprobs, following, strict=True):
                top = self._alternatives(row, alternatives, texts)
                tokens.append(TokenScore(texts.add(token_id), float(row[token_id]), top))
        tokens[-1].text += texts.rest()
        return tokens

    def _logprobs(self, hidden: Tensor) -> Tensor:
        """(rows, D) -> (rows, V) float32. bf16 would step by 0.06 near -10."""
        logits = self._head(hidden).float()
        if not torch.isfinite(logits).all():
            raise FloatingPointError("the model's logits are not finite")
        return logits.log_softmax(-1)

    def _alternatives(self, logprobs: Tensor, count: int, texts: TokenTexts) -> dict[str, float]:
        if count == 0:
            return {}
        values, ids = logprobs.topk(min(count, len(logprobs)))
        top: dict[str, float] = {}
        for value, token_id in zip(values.tolist(), ids.tolist(), strict=True):
            top.setdefault(texts.peek(token_id), value)  # two ids may spell the same; the likelier counts
        return top


def sample(logprobs: Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """Next token from (V,) log-probabilities: the likeliest, or a draw within top_k and top_p at the temperature."""
    if params.temperature <= GREEDY_AT_OR_BELOW:
        return int(logprobs.argmax())
    probs, ids = (logprobs / params.temperature).softmax(-1).sort(descending=True)
    if params.top_k is not None:
        probs[params.top_k :] = 0.0
    # Keep the token that crosses top_p: what comes before it is below top_p. The first stays in any case,
    # also where a tiny top_p is 0 in float32.
    before = probs.cumsum(-1) - probs
    before[0] = -1.0
    probs[before >= params.top_p * probs.sum()] = 0.0
    return int(ids[torch.multinomial(probs, 1, generator=generator)])


def cut_tokens(tokens: list[TokenScore], length: int) -> list[TokenScore]:
    """The tokens that spell the first `length` characters; the last one's text is cut, too."""
    kept, start = [], 0
    for token in tokens:
        if start >= length:
            break
        kept.append(TokenScore(token.text[: length - start], token.logprob, token.top_logprobs))
        start += len(token.text)
    return kept
