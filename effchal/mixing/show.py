"""Examples as the model sees them: what is learned, special tokens, borders in a packed row."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from effchal.config import Config, ConfigError
from effchal.mixing.best_fit import best_fit
from effchal.mixing.encode import IGNORE_INDEX, EncodedExample
from effchal.mixing.prepare import PreparedData

SPACES = re.compile(r" {2,}|^ | $|(?<=\n) | (?=\n)")  # those that one would not see


@dataclass(frozen=True)
class Marks:
    """What stands before and behind a text."""

    learned: tuple[str, str]
    special: tuple[str, str]
    legend: str


PLAIN = Marks(("⟦", "⟧"), ("«", "»"), "⟦learned⟧ «special token» ↵ line end · space → tab")
COLOURED = Marks(
    ("\x1b[32m", "\x1b[39m"),
    ("\x1b[7m", "\x1b[27m"),
    "\x1b[32mlearned\x1b[39m \x1b[7mspecial token\x1b[27m ↵ line end · space → tab",
)


def lines(cfg: Config, data: PreparedData, tokenizer: Any, marks: Marks) -> Iterator[str]:
    """The examples that `show.*` asks for, in the order and the rows of training, then others.

    Raises:
        ConfigError: an example that the mix does not have, or a source without one.
    """
    wanted, validation = wanted_indices(cfg, data)
    count = min(len(wanted), len(wanted) if cfg.show.ids else cfg.show.count)
    shown: set[int] = set()
    yield marks.legend
    for step in range(data.order.steps):
        if len(shown) == count:
            break
        indices, chosen = data.order.indices_of_step(step), set()
        for position, index in enumerate(indices):
            if index in wanted and index not in shown and len(shown) < count:
                shown.add(index)
                chosen.add(position)
        if chosen:
            yield from step_lines(
                cfg, tokenizer, marks, step, data.order.examples_of_step(step), chosen
            )
    rest = [index for index in wanted if index not in shown] if cfg.show.ids else []
    for title, examples, those in (
        ("in no step of this run", data.train, rest),
        ("validation", data.validation, validation),
    ):
        for index in those:
            yield from ("", f"══ {title}", *example_lines(examples[index], tokenizer, marks))


def wanted_indices(cfg: Config, data: PreparedData) -> tuple[Sequence[int] | set[int], list[int]]:
    """Which training examples may be shown, and which of validation: those of show.ids only."""
    show, train, sources = cfg.show, data.train, list(cfg.data_mix.sources)
    if show.ids:
        asked = set(show.ids)
        named, validation = (
            {i: name for i in range(len(part)) if (name := part.id_at(i)) in asked}
            for part in (train, data.validation)
        )
        asked -= {*named.values(), *validation.values()}
        if asked:
            raise ConfigError(
                f"show.ids: the mix has no {', '.join(sorted(asked))}; an id is "
                "<source>:<row, from 0>, and mix.md tells what was left out"
            )
        return set(named), list(validation)
    if show.source is None:
        return range(len(train)), []
    found = np.flatnonzero(train.source == sources.index(show.source)).tolist()
    if not found:
        raise ConfigError(f"show.source={show.source} has nothing to train on; mix.md tells why")
    return set(found), []


def step_lines(
    cfg: Config,
    tokenizer: Any,
    marks: Marks,
    step: int,
    examples: list[EncodedExample],
    chosen: set[int],
) -> Iterator[str]:
    """The rows of a step that hold a chosen example; of their other examples, one line each."""
    train, most = cfg.train, cfg.model.max_seq_len
    size = 1 if train.micro_batch_size == "auto" else int(train.micro_batch_size)
    capacity = size * most if train.packing else size
    rows = best_fit([len(each.ids) for each in examples], capacity, train.packing)
    of = f" of {capacity:,}" if train.packing else ""
    for number, row in enumerate(rows, start=1):
        if chosen.isdisjoint(row):
            continue
        tokens = sum(len(examples[i].ids) for i in row)
        yield ""
        yield f"══ step {step + 1}, row {number} of {len(rows)}: {tokens:,}{of} tokens"
        for i in row:
            if i in chosen:
                yield from example_lines(examples[i], tokenizer, marks)
            else:
                yield f"── {examples[i].id}: {len(examples[i].ids):,} tokens, not shown"


def example_lines(example: EncodedExample, tokenizer: Any, marks: Marks) -> Iterator[str]:
    learned = int((example.targets != IGNORE_INDEX).sum())
    cut = ", cut at model.max_seq_len" if example.truncated else ""
    yield f"── {example.id}: {len(example.ids):,} tokens, {learned:,} learned{cut}"
    yield spelled(example, tokenizer, marks)


def spelled(example: EncodedExample, tokenizer: Any, marks: Marks) -> str:
    """The text of an example's ids, marked."""
    ids = example.ids.tolist()
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # A target is learned where it is predicted: one position before its token.
    learned = [False, *(example.targets[:-1] != IGNORE_INDEX).tolist()]
    kinds = [(is_learned, i in special) for is_learned, i in zip(learned, ids, strict=True)]
    parts, text, end, was_learned = [], "", 0, False
    for (is_learned, is_special), group in groupby(kinds):
        end += len(list(group))
        # All up to here, not the group alone: a decoder may strip the first space of a text.
        whole = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        piece, text = whole[len(text) :], whole
        if is_learned != was_learned:
            parts.append(marks.learned[was_learned])
        parts.append(piece.join(marks.special) if is_special else visible(piece))
        was_learned = is_learned
    return "".join([*parts, marks.learned[1] if was_learned else ""])


def visible(text: str) -> str:
    """Text with its line ends, tabs, and spaces at ends and in runs as signs, all else escaped."""
    text = SPACES.sub(lambda found: "·" * len(found[0]), text)
    text = text.replace("\t", "→").replace("\n", "↵\n")
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
