"""lm-eval's requests as token ids and sampling settings, as its own `hf` model makes them.

Source: lm_eval/models/huggingface.py, lm_eval/models/utils.py and lm_eval/utils.py of 0.4.13.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from effchal.config import ConfigError
from effchal.config.lm_eval import ANSWER_LENGTHS, check_generation
from effchal.decoding.sampling import SamplingParams
from effchal.evaluation.variants import Variant

DEFAULT_ANSWER = 256  # tokens, where a task says nothing
Pair = tuple[list[int], list[int]]  # what is given, and what is scored; both at least one id


class RequestEncoder:
    """Texts to ids as lm-eval's `hf` does it.

    Args:
        max_positions: of the model, prompt and answer together.
    """

    def __init__(self, tokenizer: Any, max_positions: int) -> None:
        self.tokenizer, self.max_positions = tokenizer, max_positions
        bos = tokenizer.bos_token_id
        self._first_id: int = tokenizer.eos_token_id if bos is None else bos
        self._first_text: str = tokenizer.decode([self._first_id])

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Special tokens that a text spells count. None comes before a text that begins with it."""
        found: dict[str, list[int]] = {}
        for special in (True, False):
            some = [text for text in dict.fromkeys(texts) if self._wants_special(text) == special]
            if some:
                encoded = self.tokenizer(some, add_special_tokens=special)["input_ids"]
                found |= dict(zip(some, encoded, strict=True))
        return [found[text] for text in texts]

    def _wants_special(self, text: str) -> bool:
        return not text.startswith(self._first_text)

    def pairs(self, requests: Sequence[Sequence[str]]) -> list[Pair]:
        """Ids of (context, continuation).

        Both are encoded as one text and split behind as many ids as the context has alone. Spaces
        at the context's end go to the continuation.

        Raises:
            ConfigError: a continuation with no token, or with more than the model has positions.
        """
        moved = []
        for context, continuation in requests:
            kept = context.rstrip()
            moved.append((kept, context[len(kept) :] + continuation) if context else ("", ""))
        contexts = self.ids([context for context, _ in moved])
        wholes = self.ids([context + continuation for context, continuation in moved])
        found = []
        for (context, continuation), before, whole in zip(requests, contexts, wholes, strict=True):
            pair = before, whole[len(before) :]
            pair = pair if context else self._without_context(continuation)
            found.append(self._fitting(pair, continuation))
        return found

    def _without_context(self, continuation: str) -> Pair:
        ids = self.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        return ([self._first_id], ids) if ids[:1] != [self._first_id] else (ids[:1], ids[1:])

    def _fitting(self, pair: Pair, continuation: str) -> Pair:
        """The pair without what the model has no positions for, from the left."""
        given, scored = pair
        if not given or not 0 < len(scored) <= self.max_positions:
            raise ConfigError(
                f"a task scores {continuation[:50]!r}, {len(scored)} tokens after {len(given)}; "
                f"this model scores 1 to {self.max_positions} after at least one"
            )
        return given[-(self.max_positions + 1 - len(scored)) :], scored

    def windows(self, text: str) -> list[Pair]:
        """A whole text in parts: each token is scored once, after as many as the model takes."""
        (ids,) = self.ids([text])
        return list(rolling_windows(ids, self._first_id, self.max_positions))

    def prompts(self, contexts: Sequence[str], new_tokens: Sequence[int]) -> list[list[int]]:
        """Prompts to continue, cut from the left where the answer would not fit.

        Raises:
            ConfigError: an answer longer than the model takes.
        """
        found = []
        for ids, new in zip(self.ids(contexts), new_tokens, strict=True):
            left = self.max_positions - new
            if left < 1:
                raise ConfigError(
                    f"a task asks for {new} new tokens, and this model takes {self.max_positions} "
                    "with the prompt; give lm_eval.gen_kwargs={max_gen_toks: <fewer>}"
                )
            found.append(ids[-left:] or [self._first_id])
        return found


def rolling_windows(ids: list[int], first_id: int, longest: int) -> Iterator[Pair]:
    """The first window has `longest` tokens after one that stands for the beginning."""
    if ids:
        yield [first_id], ids[:longest]
    for start in range(longest, len(ids), longest):
        end = min(start + longest, len(ids))
        yield ids[end - longest - 1 : start], ids[start:end]


def params_of(settings: dict[str, Any], variant: Variant, task: str, key: str) -> SamplingParams:
    """How one answer is generated.

    Args:
        settings: lm-eval's, of the task with lm_eval.gen_kwargs on top.
        key: the request's; answers that are drawn at random depend on it.

    Raises:
        ConfigError: a setting that we have no equal of.
    """
    check_generation(settings, f"task {task}: generation_kwargs")
    known = {name: value for name, value in settings.items() if value is not None}
    until = known.get("until", [])
    stops = [until] if isinstance(until, str) else until
    params = SamplingParams(
        max_new_tokens=answer_length(settings),
        temperature=temperature_of(known),
        top_p=float(known.get("top_p", 1.0)),
        top_k=int(known["top_k"]) if known.get("top_k") else None,
        min_p=float(known.get("min_p", 0.0)),
        stops=tuple(stop for stop in stops if stop),
        seed=zlib.crc32(key.encode()),
        contrast=variant.contrast,
        repetition_penalty=float(known.get("repetition_penalty", 1.0)),
    )
    if variant.repetition_penalty != 1.0:
        params = replace(params, repetition_penalty=variant.repetition_penalty)
    if variant.temperature is not None:
        params = replace(params, temperature=variant.temperature, top_p=variant.top_p)
    return params


def answer_length(settings: dict[str, Any]) -> int:
    """The most tokens of an answer: lm-eval takes the first of these names that is given."""
    given = [settings[name] for name in ANSWER_LENGTHS if settings.get(name) is not None]
    return int(given[0]) if given else DEFAULT_ANSWER


def temperature_of(settings: dict[str, Any]) -> float:
    """0 for a task that says that it does not sample, whatever temperature it names."""
    sampled = settings.get("do_sample", True)
    return float(settings.get("temperature", 0.0)) if sampled else 0.0
