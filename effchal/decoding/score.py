"""Log-probabilities of given continuations, under many contrasts from one forward pass."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from effchal.decoding.contrast import Contrast, taps_of
from effchal.decoding.kv_cache import attention_mask
from effchal.decoding.layer_logits import LayerLogits, Tap
from effchal.decoding.sequence import named
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.model.adapter_names import BASE
from effchal.model.vocabulary import check_ids, embedding_rows

PROMPT_CHUNK = 1024  # prompt tokens in one forward pass
SCORED_AT_ONCE = 2048  # tokens of continuations in one forward pass, unless a single one is longer
# Bytes of float32 logits in memory together, all layers counted; a CPU is fastest on little.
LOGIT_BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}


@dataclass
class Scores:
    """What one contrast says of the continuations of one prompt."""

    logprobs: list[float]  # nats, a sum over its tokens for each continuation
    layers: dict[int, int]  # how often a contrast chose each layer
    # Whether greedy decoding would give it, for each continuation; empty where nobody asked.
    greedy: list[bool] = field(default_factory=list)


class Scorer:
    """Not thread-safe: one caller at a time."""

    def __init__(self, model: TappedModel, adapter: str = BASE) -> None:
        """adapter: as `model.load_adapter` named it."""
        self._model, self._adapters = model, named([adapter])
        self._embeddings = embedding_rows(model.backbone)
        self._cache = model.new_cache()
        self._cache.add_row()
        self._prefix: list[int] = []  # ids that the cache keeps between calls

    @torch.inference_mode()
    def score(
        self,
        prompt_ids: list[int],
        continuations: list[list[int]],
        contrasts: Sequence[Contrast],
        prefix_tokens: int = 0,
        greedy: bool = False,
    ) -> list[Scores]:
        """Score continuations of one prompt, which is read once.

        Many continuations go through the model in one row, each seeing the prompt and itself alone:
        no pad, no copy of the cache.

        Args:
            prompt_ids: at least one id.
            continuations: at least one id each.
            contrasts: C of them; results do not depend on which others are there.
            prefix_tokens: first tokens of the prompt that the next call's prompt shares; kept.
            greedy: also whether each continuation is what greedy decoding gives.

        Returns:
            one for each contrast.

        Raises:
            FloatingPointError: the model's logits are not finite.
            ValueError: an id that the model has no embedding of.
        """
        for ids in (prompt_ids, *continuations):
            check_ids(ids, self._embeddings)
        taps = taps_of(contrasts)
        if not self._model.reads_in_chunks:
            return self._score_alone(prompt_ids, continuations, contrasts, taps, greedy)
        prefix_tokens = min(prefix_tokens, len(prompt_ids) - 1)
        last = self._read_prompt(prompt_ids, prefix_tokens, taps)  # (K + 1, 1, D)
        parts = [
            self._score_together(last, part, contrasts, taps, greedy)
            for part in split(continuations, SCORED_AT_ONCE)
        ]
        return [joined([part[i] for part in parts]) for i in range(len(contrasts))]

    def _score_alone(
        self,
        prompt_ids: list[int],
        continuations: list[list[int]],
        contrasts: Sequence[Contrast],
        taps: tuple[Tap, ...],
        greedy: bool,
    ) -> list[Scores]:
        """Scores from a forward pass of the prompt with each continuation but its last token."""
        by_read: dict[tuple[int, ...], list[int]] = {}
        for i, ids in enumerate(continuations):
            by_read.setdefault(tuple(ids[:-1]), []).append(i)
        order = [i for numbers in by_read.values() for i in numbers]
        parts = []
        for read, numbers in by_read.items():
            whole = [*prompt_ids, *read]
            at = torch.arange(len(prompt_ids) - 1, len(whole), device=self._model.device)
            states = self._model.read_alone(whole, taps, at, self._adapters)
            source = list(range(len(at))) * len(numbers)
            chosen = [continuations[i] for i in numbers]
            parts.append(self._score(states, source, chosen, contrasts, taps, greedy))
        scores = [joined([part[i] for part in parts]) for i in range(len(contrasts))]
        for each in scores:
            in_order = dict(zip(order, each.logprobs, strict=True))
            each.logprobs = [in_order[i] for i in range(len(continuations))]
            if greedy:
                flags = dict(zip(order, each.greedy, strict=True))
                each.greedy = [flags[i] for i in range(len(continuations))]
        return scores

    def _score_together(
        self,
        last: Tensor,
        continuations: list[list[int]],
        contrasts: Sequence[Contrast],
        taps: tuple[Tap, ...],
        greedy: bool,
    ) -> list[Scores]:
        """Scores of continuations in one row; last: (K + 1, 1, D), the prompt's last state."""
        states = last
        if any(len(ids) > 1 for ids in continuations):
            states = torch.cat([last, self._read_continuations(continuations, taps)], dim=1)
        # The prompt's last state predicts each first token, a continuation's own states the others.
        source: list[int] = []
        state = 1
        for ids in continuations:
            source += [0, *range(state, state + len(ids) - 1)]
            state += len(ids) - 1
        return self._score(states, source, continuations, contrasts, taps, greedy)

    def _score(
        self,
        states: Tensor,
        source: list[int],
        continuations: list[list[int]],
        contrasts: Sequence[Contrast],
        taps: tuple[Tap, ...],
        greedy: bool,
    ) -> list[Scores]:
        """Scores of continuations, whose tokens the states (K + 1, P, D) at `source` predict."""
        device = self._model.device
        targets = torch.tensor([token for ids in continuations for token in ids], device=device)
        owner = [i for i, ids in enumerate(continuations) for _ in ids]
        owners, sources = torch.tensor(owner, device=device), torch.tensor(source, device=device)
        count = len(continuations)
        sums = torch.zeros(len(contrasts), count, dtype=torch.float64, device=device)
        shape = (len(contrasts), self._model.num_layers)
        chosen = torch.zeros(shape, dtype=torch.int64, device=device)
        others = torch.zeros_like(sums)  # tokens that greedy decoding would not choose
        # In chunks of bounded memory.
        limit = LOGIT_BYTES.get(device.type, LOGIT_BYTES["cuda"])
        at_once = max(1, limit // (4 * self._model.vocabulary * (len(taps) + 1)))
        for begin in range(0, len(targets), at_once):
            here = slice(begin, begin + at_once)
            logits = self._model.lm_head.logits(states[:, sources[here]], taps)
            for i, contrast in enumerate(contrasts):
                logprobs, layers = contrast.target_logprobs(logits, targets[here])
                sums[i].index_add_(0, owners[here], logprobs.double())
                if layers is not None:
                    chosen[i].index_add_(0, layers, torch.ones_like(layers))
                if greedy:
                    missed = best_tokens(contrast, logits) != targets[here]
                    others[i].index_add_(0, owners[here], missed.double())
            if not (logits.are_finite() and torch.isfinite(sums).all()):
                raise FloatingPointError("the model's logits are not finite")
        counts = [{layer: n for layer, n in enumerate(row) if n} for row in chosen.tolist()]
        flags = (others == 0).tolist() if greedy else [[]] * len(contrasts)
        return [Scores(*each) for each in zip(sums.tolist(), counts, flags, strict=True)]

    def _read_prompt(
        self, prompt_ids: list[int], prefix_tokens: int, taps: tuple[Tap, ...]
    ) -> Tensor:
        """The states of the prompt's last position, (K + 1, 1, D)."""
        prefix = prompt_ids[:prefix_tokens]
        if self._prefix != prefix:
            self._cache.shorten(0, 0)
            self._prefix = prefix
            if prefix:
                self._extend(prefix, ())
        self._cache.shorten(0, prefix_tokens)
        return self._extend(prompt_ids[prefix_tokens:], taps)

    def _extend(self, ids: list[int], taps: tuple[Tap, ...]) -> Tensor:
        """Append ids, at least one; the states of the last one, (K + 1, 1, D)."""
        for start in range(0, len(ids), PROMPT_CHUNK):
            chunk = torch.tensor([ids[start : start + PROMPT_CHUNK]], device=self._model.device)
            at = torch.tensor([chunk.shape[1] - 1], device=self._model.device)
            new = NewTokens(self._cache, 0, chunk, adapters=self._adapters)
            states = self._model.extend([new], taps, at)
        return states

    def _read_continuations(self, continuations: list[list[int]], taps: tuple[Tap, ...]) -> Tensor:
        """States of all tokens but the last of each continuation, in order, (K + 1, M, D)."""
        device, prompt = self._model.device, self._cache.lengths[0]
        places = [(i, j) for i, ids in enumerate(continuations) for j in range(len(ids) - 1)]
        owner, offset = torch.tensor(places, device=device).T  # (M,) each
        count = len(places)
        # Never committed: the row ends with the prompt again.
        self._cache.extend(0, 1, count, device)
        position_ids = (prompt + offset)[None]  # (1, M)
        columns = torch.cat([torch.arange(prompt, device=device), position_ids[0]])[None]
        of_prompt = torch.ones(count, prompt, dtype=torch.bool, device=device)
        own = torch.cat([of_prompt, owner[:, None] == owner], dim=1)  # (M, prompt + M)
        visible = (own & (columns <= position_ids[0, :, None]))[None, None]
        mask = attention_mask(self._model.config, visible, position_ids, columns)
        ids = torch.tensor([token for each in continuations for token in each[:-1]], device=device)
        at = torch.arange(count, device=device)
        return self._model.states(
            ids[None], position_ids, self._cache, mask, taps, at, self._adapters
        )


def split(continuations: list[list[int]], tokens: int) -> list[list[list[int]]]:
    """In parts of at most so many tokens; a longer continuation is a part of its own."""
    parts: list[list[list[int]]] = []
    left = 0
    for ids in continuations:
        if not parts or len(ids) > left:
            parts.append([])
            left = tokens
        parts[-1].append(ids)
        left -= len(ids)
    return parts


def joined(parts: list[Scores]) -> Scores:
    layers: Counter[int] = Counter()
    for part in parts:
        layers.update(part.layers)
    logprobs = [logprob for part in parts for logprob in part.logprobs]
    return Scores(logprobs, dict(layers), [flag for part in parts for flag in part.greedy])


def best_tokens(contrast: Contrast, logits: LayerLogits) -> Tensor:
    """(P,) the token that greedy decoding would choose at each position."""
    at = torch.arange(len(logits.mature), device=logits.mature.device)
    return contrast.scores(logits, at)[0].argmax(-1)
