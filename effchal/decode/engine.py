"""Many prompts at once on one model: prefill, and decode steps over rows of any length."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effchal.decode.branch import Branch, Completion, Echo, likeliest
from effchal.decode.cache import RowCache
from effchal.decode.contrast import penalise_repetition
from effchal.decode.layers import Contrast, LayerLogits, Tap, taps_of
from effchal.decode.sampling import SamplingParams, sample
from effchal.decode.taps import TappedModel

PREFILL_AT_ONCE = 1024  # prompt tokens in one forward pass


@dataclass
class Row:
    """One row of the cache and the branches that still agree on its tokens."""

    branches: list[Branch]
    next_id: int = -1  # chosen, not yet seen by the model


class Engine:
    """Not thread-safe: one caller at a time. Row i of the cache belongs to rows[i]."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.model = TappedModel(model)
        self.max_positions = self.model.max_positions  # prompt and answer together
        ends = self.model.config.eos_token_id
        self._ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self._cache = RowCache()
        self._rows: list[Row] = []
        self._prefix: tuple[list[int], list[tuple[Tensor, Tensor]]] = [], []
        # How often DoLa chose each layer, counted where the choice was made.
        self.layer_counts = torch.zeros(self.model.num_layers, dtype=torch.int64, device=self.model.device)

    def complete(self, prompt_ids: list[int], params: SamplingParams) -> Completion:
        """Answer one prompt; see generate."""
        return next(self.generate([prompt_ids], [[params]], 1))[0]

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], variants: Sequence[Sequence[SamplingParams]], rows_at_once: int
    ) -> Iterator[list[Completion]]:
        """Answer many prompts, each in one or more ways, in their order.

        The ways of one prompt share its prefill, and the cache until their tokens differ. A row's tokens do not
        depend on its neighbours.

        Args:
            prompts: at least one id each.
            variants: beside prompts; the ways to answer each.
            rows_at_once: prompts that decode together.

        Raises:
            FloatingPointError: the model's logits are not finite.
        """
        try:
            for first in range(0, len(prompts), rows_at_once):
                together = slice(first, first + rows_at_once)
                started = [self.start(*each) for each in zip(prompts[together], variants[together], strict=True)]
                while self._rows:
                    self.step()
                for branches in started:
                    yield [branch.completion() for branch in branches]
        finally:
            self.clear()

    def clear(self) -> None:
        """Forget all rows, e.g. after an error in the middle of a step."""
        self._rows.clear()
        self._cache = RowCache()  # what it held may be no number, and masked it would still spoil a sum

    def hold_prefix(self, ids: list[int]) -> None:
        """Keep the cache of ids that many prompts begin with (few-shot examples); replaces the prefix held before."""
        with torch.inference_mode():
            number = self._cache.add_row()
            self._prefill(number, ids, (), [])
            self._prefix = ids, self._cache.copy_of(number)
            self._cache.drop(number)

    @torch.inference_mode()
    def start(self, prompt_ids: list[int], variants: Sequence[SamplingParams]) -> list[Branch]:
        """Prefill a prompt and choose the first token of each branch; unfinished ones join the next step."""
        branches = [Branch(self.tokenizer, prompt_ids, params, self.model) for params in variants]
        number = self._cache.add_row()
        self._rows.append(Row([branch for branch in branches if not branch.done]))
        taps = taps_of([params.contrast for params in variants])
        echoes = [branch.echo for branch in branches if branch.echo is not None]
        held, copy = self._prefix
        if not echoes and held and len(held) < len(prompt_ids) and held == prompt_ids[: len(held)]:
            self._cache.put_copy(number, copy)
        states = self._prefill(number, prompt_ids[self._cache.lengths[number] :], taps, echoes)  # (K + 1, 1, D)
        self._advance([number], self.model.logits(states, taps))
        return branches

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row."""
        ids = torch.tensor([[row.next_id] for row in self._rows], device=self.model.device)  # (rows, 1)
        taps = taps_of([branch.params.contrast for row in self._rows for branch in row.branches])
        at = torch.arange(len(ids), device=self.model.device)
        states = self.model.extend(self._cache, 0, ids, taps, at)  # (K + 1, rows, D)
        self._advance(list(range(len(ids))), self.model.logits(states, taps))

    def _prefill(self, number: int, ids: list[int], taps: tuple[Tap, ...], echoes: list[Echo]) -> Tensor:
        """Run ids through the model in chunks, as the next ones of a row; the states of the last, (K + 1, 1, D)."""
        for start in range(0, len(ids), PREFILL_AT_ONCE):
            chunk = torch.tensor([ids[start : start + PREFILL_AT_ONCE]], device=self.model.device)
            length = chunk.shape[1]
            at = torch.arange(0 if echoes else length - 1, length, device=self.model.device)
            states = self.model.extend(self._cache, number, chunk, taps, at)
            for echo in echoes:
                echo.feed(states, taps)
        return states[:, -1:]

    def _advance(self, numbers: list[int], logits: LayerLogits) -> None:
        """Choose the next token of every branch of some rows, split rows whose branches disagree, drop finished ones.

        Args:
            logits: at one position for each of the rows, in their order.
        """
        jobs: dict[Contrast, list[tuple[int, Branch]]] = {}
        for position, number in enumerate(numbers):
            for branch in self._rows[number].branches:
                jobs.setdefault(branch.params.contrast, []).append((position, branch))
        for contrast, group in jobs.items():
            self._choose(contrast, group, logits)
        for number in reversed(numbers):  # from the last, so that dropping moves only rows that are done with
            self._regroup(number)

    def _choose(self, contrast: Contrast, group: list[tuple[int, Branch]], logits: LayerLogits) -> None:
        """The next token of branches that share a contrast."""
        at = torch.tensor([position for position, _ in group], device=self.model.device)
        if contrast is None and all(branch.seen is None for _, branch in group):
            logprobs, layers = logits.log_p[at], None  # (R, V)
        else:
            scores, layers = logits.scores(contrast, at)  # (R, V), (R,) or None
            for i, (_, branch) in enumerate(group):
                if branch.seen is not None:
                    scores[i] = penalise_repetition(scores[i], branch.seen, branch.params.repetition_penalty)
            logprobs = scores.log_softmax(-1)
        chosen = logprobs.argmax(-1)  # (R,)
        for i, (_, branch) in enumerate(group):
            if not branch.params.is_greedy:
                chosen[i] = sample(logprobs[i], branch.params, branch.generator)
        if layers is not None:
            self.layer_counts.index_add_(0, layers, torch.ones_like(layers))
        values = torch.stack(
            [
                *(logprobs.gather(1, chosen[:, None])[:, 0], logits.log_p[at, chosen]),
                *(chosen, layers if layers is not None else chosen),
            ]
        )
        # float64 holds ids and float32 values alike: one transfer a step.
        for i, (logprob, plain_logprob, token_id, layer) in enumerate(values.double().T.tolist()):
            branch = group[i][1]
            if not math.isfinite(logprob):
                raise FloatingPointError("the model's logits are not finite")
            if int(token_id) in self._ends:
                branch.ids.append(int(token_id))
                branch.end("stop")
                continue
            top = likeliest(logprobs[i], branch.params.alternatives, branch.texts)
            branch.add(int(token_id), logprob, plain_logprob, top, None if layers is None else int(layer))

    def _regroup(self, number: int) -> None:
        """Branches of a row that chose different tokens go on in rows of their own; a row without any is dropped."""
        by_token: dict[int, list[Branch]] = {}
        for branch in self._rows[number].branches:
            if not branch.done:
                by_token.setdefault(branch.ids[-1], []).append(branch)
        if not by_token:
            last = self._cache.drop(number)
            self._rows[number] = self._rows[last]
            self._rows.pop()
            return
        (token_id, stay), *leave = by_token.items()
        self._rows[number].branches, self._rows[number].next_id = stay, token_id
        for token_id, branches in leave:
            self._cache.fork(number)
            self._rows.append(Row(branches, token_id))
