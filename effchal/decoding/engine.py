"""Many prompts at once on one model: begin, prefill, step, choose tokens."""

import math
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Listed
from typing import Any

import torch
from torch import Tensor, nn

from effchal.decoding.choices import Choices
from effchal.decoding.contrast import Contrast, taps_of
from effchal.decoding.layer_logits import Tap
from effchal.decoding.prefix_cache import PrefixCache, common_beginning
from effchal.decoding.reading import PromptPart, read, start_all, step
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Completion, Prefill, Row, Sequence, named
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.decoding.transfer import upload
from effchal.kernels.step_graphs import Record
from effchal.model.adapter_names import BASE
from effchal.model.merge import Drift
from effchal.model.structure import end_tokens
from effchal.model.vocabulary import check_ids, embedding_rows


class Engine:
    """Not thread-safe: one caller at a time. Row i of the cache belongs to rows[i]."""

    def __init__(self, model: nn.Module, tokenizer: Any, record: Record | None = None) -> None:
        self.tokenizer = tokenizer
        self.model = TappedModel(model, record)
        self.embeddings = embedding_rows(model)  # ids below it are known
        self.max_positions = self.model.max_positions  # prompt and answer together
        self.own_ends = frozenset({tokenizer.eos_token_id, *end_tokens(model)})
        self.ends = set(self.own_ends)  # and those of a prompt's template
        self.drift: Drift | None = None  # where an adapter was merged
        self.prefix_cache = PrefixCache(math.inf)
        # How often a contrast chose each layer, counted on the device that chose.
        self.layer_counts = torch.zeros(
            self.model.num_layers, dtype=torch.int64, device=self.model.device
        )
        self.clear()

    def clear(self) -> None:
        """Forget all rows, e.g. after an error in the middle of a step."""
        self.rows: list[Row] = []
        self.model.lm_head.reset()
        self.cache = self.model.new_cache()  # a new one: the old one's content may be NaN

    # Whole answers

    def complete(self, prompt_ids: list[int], params: SamplingParams) -> Completion:
        """Answer one prompt; see generate."""
        return next(self.generate([prompt_ids], [[params]], 1))[0]

    def generate(
        self,
        prompts: list[list[int]],
        variants: list[list[SamplingParams]],
        rows_at_once: int,
        adapters: tuple[str, ...] = (),
    ) -> Iterator[list[Completion]]:
        """Answer many prompts, each under one or more settings, in their order.

        The answers to one prompt share its prefill, and the cache until their tokens differ. A
        row's tokens do not depend on its neighbours.

        Args:
            prompts: at least one id each.
            variants: for each prompt, the settings of its answers.
            rows_at_once: prompts that decode together.
            adapters: of each prompt, as `model.load_adapter` names them; none: as the model stands.

        Raises:
            FloatingPointError: the model's logits are not finite.
        """
        try:
            for first in range(0, len(prompts), rows_at_once):
                here = slice(first, first + rows_at_once)
                names = adapters[here] or (BASE,) * len(prompts[here])
                started = start_all(self, prompts[here], variants[here], names)
                while self.rows:
                    self.step()
                for sequences in started:
                    yield [each.completion() for each in sequences]
        finally:
            self.clear()

    def start(
        self, prompt_ids: list[int], variants: Iterable[SamplingParams], adapter: str = BASE
    ) -> list[Sequence]:
        """Prefill a prompt and choose each answer's first token; the others come with the steps."""
        return self._read_whole(prompt_ids, variants, adapter).sequences

    def hold_prefixes(self, prefixes: Iterable[tuple[list[int], str]]) -> None:
        """Keep the caches of ids that many prompts begin with (few-shot examples), and no other.

        Args:
            prefixes: ids, and the adapter that reads them.
        """
        self.prefix_cache.clear()
        for ids, adapter in prefixes if self.model.reads_in_chunks else ():
            self.keep_prefix(self._read_whole(ids, (), adapter))

    def _read_whole(
        self, prompt_ids: list[int], variants: Iterable[SamplingParams], adapter: str
    ) -> Prefill:
        prefill = self.begin(prompt_ids, variants, adapter)
        read([prefill], self)
        return prefill

    # Prompts

    @torch.inference_mode()
    def begin(
        self, prompt_ids: list[int], variants: Iterable[SamplingParams], adapter: str = BASE
    ) -> Prefill:
        """A prompt to prefill; its cache has what the prefix cache knows of it already.

        Raises:
            ValueError: an id that the model has no embedding of.
            AdapterGone: no such adapter.
        """
        check_ids(prompt_ids, self.embeddings)
        self.model.adapters.check(adapter)
        sequences = [Sequence(self.tokenizer, prompt_ids, each, self.model) for each in variants]
        prefill = Prefill(prompt_ids, sequences, self.model.new_cache(), adapter)
        prefill.cache.resize(1, len(prompt_ids))
        prefill.cache.add_row()
        if self.model.reads_in_chunks and not prefill.echoes:  # an echo needs every state
            known = self.prefix_cache.longest(prompt_ids, adapter)
            if known:
                prefill.cache.fill(0, known)
                prefill.reused_tokens = prefill.cache.lengths[0]
        return prefill

    @torch.inference_mode()
    def prefill(self, prefill: Prefill, tokens: int) -> bool:
        """Run the next tokens of a prompt through the model.

        After the last, its answers have their first token and join the next step.

        Returns:
            whether the prompt is through.
        """
        tokens = tokens if self.model.reads_in_chunks else prefill.left
        chunk = prefill.chunk(tokens, self.model.device)
        length = chunk.ids.shape[1]
        taps = taps_of(each.params.contrast for each in prefill.sequences)
        at = torch.arange(0 if prefill.echoes else length - 1, length, device=self.model.device)
        states = self.model.extend([chunk], taps, at)  # (K + 1, len(at), D)
        for echo in prefill.echoes:
            echo.feed(states, taps)
        if prefill.left:
            return False
        if self.join(prefill):
            self.advance([len(self.rows) - 1], states[:, -1:], taps)
        return True

    def join(self, prefill: Prefill) -> bool:
        """Add a row for a prompt that is through; False where no sequence wants one."""
        unfinished = [each for each in prefill.sequences if not each.done]
        if unfinished:
            self.cache.copy_row(self.cache.add_row(), prefill.cache, 0)
            self.rows.append(Row(unfinished, prefill.prompt_ids, prefill.adapter))
        return bool(unfinished)

    def keep_prefix(self, prefill: Prefill) -> None:
        """Keep what a prompt that is through begins with for the next ones."""
        if self.model.reads_in_chunks:
            self.prefix_cache.insert(prefill.prompt_ids, prefill.cache, 0, prefill.adapter)

    # Steps

    def step(self, prompts: Listed[PromptPart] = ()) -> None:
        """One more token for every row, and the next tokens of prompts, in the same products.

        The sequences of a prompt that is through then have their first token.

        Args:
            prompts: as `parts_in_step` gives them. After an error with some, `clear`.
        """
        step(self, prompts, with_rows=True)

    def contrasts(self) -> list[Contrast]:
        """Of all rows' sequences."""
        return [each.params.contrast for row in self.rows for each in row.sequences]

    def next_ids(self) -> NewTokens:
        """The next ids of every row, (rows, 1)."""
        ids = upload([[row.next_id] for row in self.rows], self.model.device)
        shared, adapters = 0, [row.adapter for row in self.rows]
        if self.model.shares_prefix and len(self.rows) > 1:
            # What one adapter made of a prompt is not another's.
            by_adapter: dict[str, list[list[int]]] = {}
            for row in self.rows:
                by_adapter.setdefault(row.adapter, []).append(row.prompt_ids)
            shared = min(map(common_beginning, by_adapter.values()))
        return NewTokens(self.cache, 0, ids, shared, named(adapters))

    @torch.inference_mode()
    def drop_finished(self) -> None:
        """Free the rows of sequences that were ended from outside."""
        for number in reversed(range(len(self.rows))):
            if any(each.done for each in self.rows[number].sequences):
                self.regroup(number)

    # Tokens

    def advance(self, numbers: list[int], states: Tensor, taps: tuple[Tap, ...]) -> None:
        """Choose the next token of every sequence of some rows, then regroup the rows.

        Args:
            numbers: of the rows.
            states: (K + 1, rows, D), of the tapped layers at one position for each of them.
        """
        choices = Choices()
        try:
            self._choose(choices, numbers, states, taps)
            for each, token_id, token in choices.fetch():
                ends = token_id in self.ends or token_id in each.params.ends
                ends = ends and not each.params.ignore_eos
                (each.add_end if ends else each.add)(token_id, token)
        except Exception:
            choices.take_back()
            raise
        # From the last, so that dropping a row moves only rows that are regrouped already.
        for number in reversed(numbers):
            self.regroup(number)

    def _choose(
        self, choices: Choices, numbers: list[int], states: Tensor, taps: tuple[Tap, ...]
    ) -> None:
        """Let `choices` have the next token of every sequence of some rows, as in `advance`."""
        # Rows that want the same layers share a head product; none pays for another's layers.
        by_taps: dict[tuple[Tap, ...], list[int]] = {}
        for position, number in enumerate(numbers):
            wanted = taps_of(each.params.contrast for each in self.rows[number].sequences)
            by_taps.setdefault(wanted, []).append(position)
        for wanted, positions in by_taps.items():
            part = states
            if wanted != taps or len(by_taps) > 1:
                kept = [*(taps.index(tap) for tap in wanted), len(taps)]
                part = states[upload(kept, states.device)][:, upload(positions, states.device)]
            rows = [self.rows[numbers[position]] for position in positions]
            contrasts = [each.params.contrast for row in rows for each in row.sequences]
            for some, logits in self.model.lm_head.logits_to_choose(part, wanted, contrasts):
                choices.add([rows[i].sequences for i in some], logits)
        choices.count_layers(self.layer_counts)

    def regroup(self, number: int) -> None:
        """Give each chosen token of a row a row of its own; drop a row that nobody wants."""
        row = self.rows[number]
        by_token: dict[int, list[Sequence]] = {}
        for each in row.sequences:
            if not each.done:
                by_token.setdefault(each.ids[-1], []).append(each)
        if not by_token:
            if any(each.error for each in row.sequences):
                self.cache.wipe(number)
            self.rows[number] = self.rows[self.cache.drop(number)]
            self.rows.pop()
            return
        (row.next_id, row.sequences), *others = by_token.items()
        for token_id, sequences in others:
            self.cache.fork(number)
            self.rows.append(Row(sequences, row.prompt_ids, row.adapter, token_id))
