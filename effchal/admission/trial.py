"""Random texts through one model: by the library alone, and by each of the faster ways."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.admission.measure import (
    ROUNDING,
    ROUNDING_16_BITS,
    Sizes,
    furthest,
    random_texts,
    within,
)
from effchal.decoding.contrast import Greedy
from effchal.decoding.score import Scorer
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.kernels.attention import packed_hidden_states
from effchal.kernels.loss import chunked_loss
from effchal.model.structure import (
    attention_name,
    backbone,
    causal_lm,
    max_positions,
    set_attention,
)
from effchal.model.tokenizer import ModelError

log = logging.getLogger(__name__)


class Trial:
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

    def _loss(self, end: Any) -> Tensor:
        """(1, 1), as training computes it."""
        states, targets = self.library[0][0], torch.tensor(self.texts[0], device=self.device)
        return chunked_loss(end, states, targets)[None, None]

    def _library_loss(self) -> Tensor:
        targets = torch.tensor(self.texts[0], device=self.device)
        return F.cross_entropy(self.library[0][1].float(), targets, reduction="sum")[None, None]

    def follow(self, device: torch.device) -> None:
        """Go on where the model was moved to."""
        self.device = device
        self.library = [(states.to(device), logits.to(device)) for states, logits in self.library]

    def trains_right(self, limit: float | None = None) -> bool:
        """Whether rows of examples give what each text gives alone."""
        self._restore_attention()
        text_of = [0] * len(self.texts[0]) + [1] * len(self.texts[1])
        wanted = torch.cat([states for states, _ in self.library])
        return self._same(self.packed, wanted, limit, text_of)

    def packed(self, first: int = 0) -> Tensor:
        """(T, D) states of both texts in one row from a position on, as training computes them."""
        ids = torch.tensor([[token for text in self.texts for token in text]], device=self.device)
        positions = [first + position for text in self.texts for position in range(len(text))]
        rows = torch.tensor([positions], device=self.device)
        lengths = tuple(len(text) for text in self.texts)
        return packed_hidden_states(self.model, ids, rows, lengths)[0]

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
