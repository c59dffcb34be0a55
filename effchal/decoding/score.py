"""Log-probabilities of given continuations, under many contrasts from one forward pass."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from effchal.decoding.kv_cache import RowCache, attention_mask
from effchal.decoding.layers import Contrast, Tap, taps_of
from effchal.decoding.taps import NewTokens, TappedModel

PREFILL_AT_ONCE = 1024  # prompt tokens in one forward pass
SCORED_AT_ONCE = 2048  # tokens of continuations in one forward pass, unless a single one is longer
# Bytes of float32 logits in memory together, all layers counted; a CPU is fastest on little.
LOGIT_BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}


@dataclass
class Scores:
    """What one contrast says of the continuations of one prompt."""

    logprobs: list[float]  # a sum of nats over its tokens for each continuation
    layers: dict[int, int]  # DoLa: how often each layer was chosen


class Scorer:
    """Not thread-safe: one caller at a time."""

    def __init__(self, model: TappedModel) -> None:
        self._model = model
        self._cache = RowCache()
        self._cache.add_row()
        self._held: list[int] = []  # ids of the prefix that the cache keeps between calls

    @torch.inference_mode()
    def score(
        self,
        prompt_ids: list[int],
        continuations: list[list[int]],
        contrasts: list[Contrast],
        prefix_tokens: int = 0,
    ) -> list[Scores]:
        """Score continuations of one prompt, which is read once.

        Many continuations go through the model in one row, each seeing the prompt and itself alone: no pad, no copy
        of the cache.

        Args:
            prompt_ids: at least one id.
            continuations: at least one id each.
            contrasts: C of them; results do not depend on which others are there.
            prefix_tokens: first tokens of the prompt that the next call's prompt shares; its cache is kept.

        Returns:
            one for each contrast.

        Raises:
            FloatingPointError: the model's logits are not finite.
        """
        taps = taps_of(contrasts)
        last = self._read_prompt(
            prompt_ids, min(prefix_tokens, len(prompt_ids) - 1), taps
        )  # (K + 1, 1, D)
        parts = [
            self._score(last, part, contrasts, taps)
            for part in split(continuations, SCORED_AT_ONCE)
        ]
        return [joined([part[i] for part in parts]) for i in range(len(contrasts))]

    def _score(
        self,
        last: Tensor,
        continuations: list[list[int]],
        contrasts: list[Contrast],
        taps: tuple[Tap, ...],
    ) -> list[Scores]:
        """Scores of continuations in one row, after a prompt whose `last` position's states are (K + 1, 1, D)."""
        inner = last[:, :0]
        if any(len(ids) > 1 for ids in continuations):
            inner = self._read_continuations(
                continuations, taps
            )  # (K + 1, tokens but the last of each, D)
        owner = [i for i, ids in enumerate(continuations) for _ in ids]
        targets = torch.tensor(
            [token for ids in continuations for token in ids], device=self._model.device
        )
        # The prompt's last state predicts each first token; a continuation's own states predict the others.
        source, state = [], 1
        for ids in continuations:
            source += [0, *range(state, state + len(ids) - 1)]
            state += len(ids) - 1
        states = torch.cat([last, inner], dim=1)
        return self._totals(
            states, torch.tensor(source, device=targets.device), targets, owner, contrasts, taps
        )

    def _totals(
        self,
        states: Tensor,
        source: Tensor,
        targets: Tensor,
        owner: list[int],
        contrasts: list[Contrast],
        taps: tuple[Tap, ...],
    ) -> list[Scores]:
        """Sums over continuations of the targets' log-probabilities, in chunks of bounded memory."""
        room = LOGIT_BYTES.get(targets.device.type, LOGIT_BYTES["cuda"])
        at_once = max(1, room // (4 * self._model.vocabulary * (len(taps) + 1)))
        count = max(owner) + 1
        owners = torch.tensor(owner, device=targets.device)
        sums = torch.zeros(len(contrasts), count, dtype=torch.float64, device=targets.device)
        chosen = torch.zeros(
            len(contrasts), self._model.num_layers, dtype=torch.int64, device=targets.device
        )
        for begin in range(0, len(targets), at_once):
            here = slice(begin, begin + at_once)
            logits = self._model.logits(states[:, source[here]], taps)
            for i, contrast in enumerate(contrasts):
                logprobs, layers = logits.target_logprobs(contrast, targets[here])
                sums[i].index_add_(0, owners[here], logprobs.double())
                if layers is not None:
                    chosen[i].index_add_(0, layers, torch.ones_like(layers))
            if not (logits.are_numbers() and torch.isfinite(sums).all()):
                raise FloatingPointError("the model's logits are not finite")
        counts = [{layer: n for layer, n in enumerate(row) if n} for row in chosen.tolist()]
        return [Scores(*each) for each in zip(sums.tolist(), counts, strict=True)]

    def _read_prompt(
        self, prompt_ids: list[int], prefix_tokens: int, taps: tuple[Tap, ...]
    ) -> Tensor:
        """The states of the prompt's last position, (K + 1, 1, D)."""
        if self._held != prompt_ids[:prefix_tokens]:
            self._cache.lengths[0] = 0
            self._held = prompt_ids[:prefix_tokens]
            self._extend(self._held, ())
        self._cache.lengths[0] = prefix_tokens
        return self._extend(prompt_ids[prefix_tokens:], taps)

    def _extend(self, ids: list[int], taps: tuple[Tap, ...]) -> Tensor | None:
        states = None
        for start in range(0, len(ids), PREFILL_AT_ONCE):
            chunk = torch.tensor([ids[start : start + PREFILL_AT_ONCE]], device=self._model.device)
            at = torch.tensor([chunk.shape[1] - 1], device=self._model.device)
            states = self._model.extend([NewTokens(self._cache, 0, chunk)], taps, at)
        return states

    def _read_continuations(self, continuations: list[list[int]], taps: tuple[Tap, ...]) -> Tensor:
        """States of all tokens but the last of each continuation, one after the other, (K + 1, M, D)."""
        device, prompt = self._model.device, self._cache.lengths[0]
        ids = [token for each in continuations for token in each[:-1]]
        own = torch.tensor(
            [i for i, each in enumerate(continuations) for _ in each[:-1]], device=device
        )  # (M,)
        offset = torch.tensor(
            [j for each in continuations for j in range(len(each) - 1)], device=device
        )
        self._cache.extend(
            0, 1, len(ids), device
        )  # never committed: the row ends with the prompt again
        position_ids = (prompt + offset)[None]  # (1, M)
        columns = torch.cat([torch.arange(prompt, device=device), position_ids[0]])[
            None
        ]  # (1, prompt + M)
        same = torch.cat(
            [torch.ones(len(ids), prompt, dtype=torch.bool, device=device), own[:, None] == own],
            dim=1,
        )
        visible = (same & (columns <= position_ids[0, :, None]))[
            None, None
        ]  # (1, 1, M, prompt + M)
        mask = attention_mask(self._model.config, visible, position_ids, columns)
        tokens = torch.tensor([ids], device=device)
        return self._model.states(
            tokens, position_ids, self._cache, mask, taps, torch.arange(len(ids), device=device)
        )


def split(continuations: list[list[int]], tokens: int) -> list[list[list[int]]]:
    """In parts of at most so many tokens; a longer continuation is a part of its own."""
    parts: list[list[list[int]]] = []
    room = 0
    for ids in continuations:
        if not parts or len(ids) > room:
            parts.append([])
            room = tokens
        parts[-1].append(ids)
        room -= len(ids)
    return parts


def joined(parts: list[Scores]) -> Scores:
    layers = sum((Counter(part.layers) for part in parts), Counter())
    return Scores([logprob for part in parts for logprob in part.logprobs], dict(layers))
