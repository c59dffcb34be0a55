"""Many prompts at once on one model: prefill, and decode steps over rows of any length."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effchal.decoding.contrast import penalise_repetition
from effchal.decoding.kv_cache import RowCache
from effchal.decoding.layers import NO_LAYER, Contrast, LayerLogits, Tap, layer_or_none, taps_of
from effchal.decoding.prefix_cache import PrefixCache, common_beginning
from effchal.decoding.sampling import SamplingParams, sample
from effchal.decoding.sequence import Branch, Completion, Echo, likeliest, spell
from effchal.decoding.taps import NewTokens, TappedModel

PREFILL_AT_ONCE = 1024  # prompt tokens in one forward pass


@dataclass
class Row:
    """One row of the cache and the branches that still agree on its tokens."""

    branches: list[Branch]
    prompt_ids: list[int]
    next_id: int = -1  # chosen, not yet seen by the model


@dataclass
class Prefill:
    """A prompt on its way through the model."""

    prompt_ids: list[int]
    branches: list[Branch]
    reused_tokens: int  # whose keys and values were known already

    @property
    def echoes(self) -> list[Echo]:
        return [branch.echo for branch in self.branches if branch.echo is not None]


class Engine:
    """Not thread-safe: one caller at a time. Row i of the cache belongs to rows[i]."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.model = TappedModel(model)
        self.max_positions = self.model.max_positions  # prompt and answer together
        ends = self.model.config.eos_token_id
        self._ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self.prefix_cache = PrefixCache(math.inf)
        # How often DoLa chose each layer, counted where the choice was made.
        self.layer_counts = torch.zeros(
            self.model.num_layers, dtype=torch.int64, device=self.model.device
        )
        self.clear()

    def clear(self) -> None:
        """Forget all rows, e.g. after an error in the middle of a step."""
        self.rows: list[Row] = []
        self.model.forget()
        self.cache, self._prompt_cache = RowCache(), RowCache()  # what they held may be no number

    def complete(self, prompt_ids: list[int], params: SamplingParams) -> Completion:
        """Answer one prompt; see generate."""
        return next(self.generate([prompt_ids], [[params]], 1))[0]

    def generate(
        self,
        prompts: Sequence[list[int]],
        variants: Sequence[Sequence[SamplingParams]],
        rows_at_once: int,
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
                started = [
                    self.start(*each)
                    for each in zip(prompts[together], variants[together], strict=True)
                ]
                while self.rows:
                    self.step()
                for branches in started:
                    yield [branch.completion() for branch in branches]
        finally:
            self.clear()

    @torch.inference_mode()
    def hold_prefix(self, ids: list[int]) -> None:
        """Keep the cache of ids that many prompts begin with (few-shot examples); replaces what was kept before."""
        self.prefix_cache.clear()
        prefill = self.begin(ids, ())
        while not self.prefill(prefill, PREFILL_AT_ONCE):
            pass
        self.keep_prefix(prefill)

    def start(self, prompt_ids: list[int], variants: Sequence[SamplingParams]) -> list[Branch]:
        """Prefill a prompt and choose the first token of each branch; unfinished ones join the next step."""
        prefill = self.begin(prompt_ids, variants)
        while not self.prefill(prefill, PREFILL_AT_ONCE):
            pass
        return prefill.branches

    @torch.inference_mode()
    def begin(self, prompt_ids: list[int], variants: Sequence[SamplingParams]) -> Prefill:
        """A prompt to prefill, one at a time; what the prefix store knows of it is there already."""
        branches = [Branch(self.tokenizer, prompt_ids, params, self.model) for params in variants]
        cache = self._prompt_cache
        if cache.lengths:
            cache.drop(0)
        cache.add_row()
        prefill = Prefill(prompt_ids, branches, 0)
        if not prefill.echoes:  # an echo needs the states of every position
            known = self.prefix_cache.longest(prompt_ids)
            if known:
                cache.put(0, known)
                prefill.reused_tokens = cache.lengths[0]
        return prefill

    @torch.inference_mode()
    def prefill(self, prefill: Prefill, tokens: int) -> bool:
        """Run the next tokens of a prompt through the model; after the last, its branches join the next step.

        Returns:
            whether the prompt is through.
        """
        chunk = self._next_of(prefill, tokens)
        length = chunk.ids.shape[1]
        taps = taps_of([branch.params.contrast for branch in prefill.branches])
        at = torch.arange(0 if prefill.echoes else length - 1, length, device=self.model.device)
        try:
            states = self.model.extend([chunk], taps, at)  # (K + 1, len(at), D)
            for echo in prefill.echoes:
                echo.feed(states, taps)
        except BaseException:
            self._prompt_cache = RowCache()
            raise
        if not self._is_through(prefill):
            return False
        number = self._join(prefill)
        if number is not None:
            self._advance([number], states[:, -1:], taps)
            self._forget_errors(prefill)
        return True

    def _next_of(self, prefill: Prefill, tokens: int) -> NewTokens:
        start = self._prompt_cache.lengths[0]
        ids = torch.tensor([prefill.prompt_ids[start : start + tokens]], device=self.model.device)
        return NewTokens(self._prompt_cache, 0, ids)

    def _is_through(self, prefill: Prefill) -> bool:
        return self._prompt_cache.lengths[0] == len(prefill.prompt_ids)

    def _join(self, prefill: Prefill) -> int | None:
        """A row for a prompt that is through; its number, or None where no branch wants one."""
        live = [branch for branch in prefill.branches if not branch.done]
        if not live:
            return None
        number = self.cache.add_row()
        self.cache.copy_row(number, self._prompt_cache, 0)
        self.rows.append(Row(live, prefill.prompt_ids))
        return number

    def _forget_errors(self, prefill: Prefill) -> None:
        if any(branch.error for branch in prefill.branches):
            self._prompt_cache = RowCache()

    def keep_prefix(self, prefill: Prefill) -> None:
        """Keep what the last prompt begins with for the next ones."""
        self.prefix_cache.insert(prefill.prompt_ids, self._prompt_cache, 0)

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row."""
        ids = self._next_ids()
        taps = taps_of([branch.params.contrast for row in self.rows for branch in row.branches])
        at = torch.arange(len(self.rows), device=self.model.device)
        self._advance(list(range(len(self.rows))), self.model.extend([ids], taps, at), taps)

    def can_read_beside(self, prefill: Prefill, tokens: int) -> bool:
        """Whether `step_and_prefill` takes this prompt."""
        left = len(prefill.prompt_ids) - self._prompt_cache.lengths[0]
        few = self.model.are_few(len(self.rows) + min(tokens, left))
        return few and bool(self.rows) and not prefill.echoes

    @torch.inference_mode()
    def step_and_prefill(self, prefill: Prefill, tokens: int) -> bool:
        """One more token for every row and the prompt's next tokens, in the same products; needs `can_read_beside`.

        After an error, `clear`.

        Returns:
            whether the prompt is through; its branches then have their first token.
        """
        count, chunk = len(self.rows), self._next_of(prefill, tokens)
        branches = [branch for row in self.rows for branch in row.branches]
        taps = taps_of([branch.params.contrast for branch in (*branches, *prefill.branches)])
        at = torch.arange(count + 1, device=self.model.device)
        at[-1] += chunk.ids.shape[1] - 1
        states = self.model.extend([self._next_ids(), chunk], taps, at)  # (K + 1, rows + 1, D)
        through = self._is_through(prefill)
        joined = through and self._join(prefill) is not None
        self._advance(list(range(count + joined)), states[:, : count + joined], taps)
        if joined:
            self._forget_errors(prefill)
        return through

    def _next_ids(self) -> NewTokens:
        """Of every row, (rows, 1)."""
        ids = torch.tensor([[row.next_id] for row in self.rows], device=self.model.device)
        several = self.model.can_share and len(self.rows) > 1
        return NewTokens(
            self.cache,
            0,
            ids,
            common_beginning([row.prompt_ids for row in self.rows]) if several else 0,
        )

    @torch.inference_mode()
    def drop_finished(self) -> None:
        """Free the rows of branches that were ended from outside."""
        for number in reversed(range(len(self.rows))):
            if any(branch.done for branch in self.rows[number].branches):
                self._regroup(number)

    def _advance(self, numbers: list[int], states: Tensor, taps: tuple[Tap, ...]) -> None:
        """Choose the next token of every branch of some rows, split rows whose branches disagree, drop finished ones.

        Args:
            states: (K + 1, rows, D), of the tapped layers at one position for each of the rows, in their order.
        """
        # Rows that want the same layers share a head product; nobody pays for layers of another row.
        by_taps: dict[tuple[Tap, ...], list[int]] = {}
        for position, number in enumerate(numbers):
            wanted = taps_of([branch.params.contrast for branch in self.rows[number].branches])
            by_taps.setdefault(wanted, []).append(position)
        for wanted, positions in by_taps.items():
            part = states
            if wanted != taps or len(by_taps) > 1:
                kept = [*(taps.index(tap) for tap in wanted), -1]
                part = states[kept][:, positions]
            branches = [
                branch for position in positions for branch in self.rows[numbers[position]].branches
            ]
            contrasts = [branch.params.contrast for branch in branches]
            for some, logits in self.model.logits_to_choose(part, wanted, contrasts):
                self._choose_all([numbers[positions[i]] for i in some], logits)
        for number in reversed(
            numbers
        ):  # from the last, so that dropping moves only rows that are done with
            self._regroup(number)

    def _choose_all(self, numbers: list[int], logits: LayerLogits) -> None:
        """The next token of every branch of some rows.

        Args:
            logits: at one position for each of the rows, in their order.
        """
        jobs: dict[Contrast, list[tuple[int, Branch]]] = {}
        for position, number in enumerate(numbers):
            for branch in self.rows[number].branches:
                jobs.setdefault(branch.params.contrast, []).append((position, branch))
        for contrast, group in jobs.items():
            self._choose(contrast, group, logits)

    def _choose(
        self, contrast: Contrast, group: list[tuple[int, Branch]], logits: LayerLogits
    ) -> None:
        """The next token of branches that share a contrast."""
        at = torch.tensor([position for position, _ in group], device=self.model.device)
        if contrast is None and all(branch.seen is None for _, branch in group):
            logprobs, layers = logits.log_p[at], torch.full_like(at, NO_LAYER)  # (R, V), (R,)
        else:
            scores, layers = logits.scores(contrast, at)  # (R, V), (R,)
            for i, (_, branch) in enumerate(group):
                if branch.seen is not None:
                    scores[i] = penalise_repetition(
                        scores[i], branch.seen, branch.params.repetition_penalty
                    )
            logprobs = scores.log_softmax(-1)
        chosen = logprobs.argmax(-1)  # (R,)
        for i, (_, branch) in enumerate(group):
            if not branch.params.is_greedy:
                try:
                    chosen[i] = sample(logprobs[i], branch.params, branch.generator)
                except FloatingPointError as error:
                    branch.fail(error)
        self.layer_counts.index_add_(0, layers.clamp_min(0), (layers != NO_LAYER).long())
        values = torch.stack(
            [logprobs.gather(1, chosen[:, None])[:, 0], logits.log_p[at, chosen], chosen, layers]
        )
        # float64 holds ids and float32 values alike: one transfer a step.
        for i, (logprob, base_logprob, token_id, layer) in enumerate(values.double().T.tolist()):
            branch = group[i][1]
            if not math.isfinite(logprob):
                branch.fail(FloatingPointError("the model's logits are not finite"))
            if branch.done:
                continue
            if int(token_id) in self._ends:
                branch.ids.append(int(token_id))
                branch.end("stop")
                continue
            top = spell(likeliest(logprobs[i][None], branch.params.alternatives)[0], branch.texts)
            branch.add(int(token_id), logprob, base_logprob, top, layer_or_none(layer))

    def _regroup(self, number: int) -> None:
        """Branches of a row that chose different tokens go on in rows of their own; a row without any is dropped."""
        by_token: dict[int, list[Branch]] = {}
        for branch in self.rows[number].branches:
            if not branch.done:
                by_token.setdefault(branch.ids[-1], []).append(branch)
        if not by_token:
            if any(branch.error for branch in self.rows[number].branches):
                self.cache.wipe(number)
            last = self.cache.drop(number)
            self.rows[number] = self.rows[last]
            self.rows.pop()
            return
        (token_id, stay), *leave = by_token.items()
        self.rows[number].branches, self.rows[number].next_id = stay, token_id
        for token_id, branches in leave:
            self.cache.fork(number)
            self.rows.append(Row(branches, self.rows[number].prompt_ids, token_id))
