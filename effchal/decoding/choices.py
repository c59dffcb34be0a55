"""The next tokens of many sequences: chosen on the device, brought to the host at once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from effchal.decoding.contrast import Contrast
from effchal.decoding.layer_logits import NO_LAYER, LayerLogits
from effchal.decoding.sampling import pairs_of, sample
from effchal.decoding.sequence import (
    Sequence,
    TokenScore,
    by_text,
    layer_or_none,
    penalised_logprobs,
)
from effchal.decoding.transfer import fetch, upload


@dataclass
class Choice:
    """The next tokens of R sequences, (R,) each, on the device."""

    sequences: list[Sequence]
    logprobs: Tensor
    base_logprobs: Tensor
    ids: Tensor
    layers: Tensor
    best: list["Best"] = field(default_factory=list)


@dataclass
class Best:
    """The most probable tokens of those sequences of a choice that report as many."""

    numbers: list[int]  # of the sequences
    ids: Tensor  # (len(numbers), count)
    values: Tensor


class Choices:
    """All that a step chooses. The host waits for the device in `fetch` alone."""

    def __init__(self) -> None:
        self._choices: list[Choice] = []
        self._before: list[tuple[Sequence, int, Tensor]] = []  # tokens and generator of who draws

    def take_back(self) -> None:
        """After a failure: sequences without their token draw it again as the first time."""
        for sequence, tokens, state in self._before:
            if len(sequence.ids) == tokens:
                sequence.generator.set_state(state)

    def add(self, rows: list[list[Sequence]], logits: LayerLogits) -> None:
        """Choose the next token of every sequence of some rows.

        Args:
            logits: at one position for each of the rows.
        """
        groups: dict[Contrast, list[tuple[int, Sequence]]] = {}
        for position, row in enumerate(rows):
            for each in row:
                groups.setdefault(each.params.contrast, []).append((position, each))
        for contrast, group in groups.items():
            sequences = [each for _, each in group]
            self._before += [
                (each, len(each.ids), each.generator.get_state())
                for each in sequences
                if not each.params.is_greedy
            ]
            at = upload([position for position, _ in group], logits.mature.device)
            self._choices.append(choose(contrast, sequences, logits, at))

    def count_layers(self, counts: Tensor) -> None:
        """Add how often each layer was chosen to (layers,) counts."""
        for choice in self._choices:
            chosen = choice.layers
            counts.index_add_(0, chosen.clamp_min(0), (chosen != NO_LAYER).long())

    def fetch(self) -> Iterator[tuple[Sequence, int, TokenScore]]:
        """The token of every sequence that goes on; one without finite logits fails."""
        tensors = [
            tensor
            for each in self._choices
            for tensor in (
                *(each.logprobs, each.base_logprobs, each.ids, each.layers),
                *(part for best in each.best for part in (best.ids, best.values)),
            )
        ]
        found = iter(fetch(tensors))
        for choice in self._choices:
            columns = [next(found) for _ in range(4)]
            alternatives: list[list[tuple[int, float]]] = [[] for _ in choice.sequences]
            for best in choice.best:
                pairs = pairs_of(next(found), next(found))
                for number, each in zip(best.numbers, pairs, strict=True):
                    alternatives[number] = each
            yield from _tokens(choice.sequences, columns, alternatives)


def _tokens(
    sequences: list[Sequence],
    columns: list[list[float]],
    alternatives: list[list[tuple[int, float]]],
) -> Iterator[tuple[Sequence, int, TokenScore]]:
    """columns: logprobs, base_logprobs, ids and layers of the sequences."""
    for each, best, values in zip(sequences, alternatives, zip(*columns, strict=True), strict=True):
        logprob, base_logprob, token_id, layer = values
        if not math.isfinite(logprob):
            each.fail(FloatingPointError("the model's logits are not finite"))
        if not each.done:
            top = by_text(best, each.texts)
            score = TokenScore("", logprob, base_logprob, top, layer_or_none(layer))
            yield each, int(token_id), score


def choose(
    contrast: Contrast, sequences: list[Sequence], logits: LayerLogits, at: Tensor
) -> Choice:
    """The next token of R sequences that share a contrast; at: (R,) of their logits."""
    logprobs, layers = penalised_logprobs(contrast, sequences, logits, at)  # (R, V), (R,)
    ids = _choose_ids(logprobs, sequences)
    own, base = logprobs.gather(1, ids[:, None])[:, 0], logits.log_p[at, ids]
    return Choice(sequences, own, base, ids, layers, _best(logprobs, sequences))


def _choose_ids(logprobs: Tensor, sequences: list[Sequence]) -> Tensor:
    """(R,) ids: the most probable one, or a draw."""
    drawing = [i for i, each in enumerate(sequences) if not each.params.is_greedy]
    if not drawing:
        return logprobs.argmax(-1)
    params = [sequences[i].params for i in drawing]
    generators = [sequences[i].generator for i in drawing]
    if len(drawing) == len(sequences):
        return sample(logprobs, params, generators)
    at = upload(drawing, logprobs.device)
    drawn = sample(logprobs[at], params, generators)
    return logprobs.argmax(-1).index_copy(0, at, drawn)


def _best(logprobs: Tensor, sequences: list[Sequence]) -> list[Best]:
    """The alternatives that the sequences report, by their number."""
    groups: dict[int, list[int]] = {}
    for i, each in enumerate(sequences):
        if each.params.alternatives:
            groups.setdefault(min(each.params.alternatives, logprobs.shape[-1]), []).append(i)
    found = []
    for count, numbers in groups.items():
        some = logprobs
        if len(numbers) < len(sequences):
            some = logprobs[upload(numbers, logprobs.device)]
        values, ids = some.topk(count)
        found.append(Best(numbers, ids, values))
    return found
