"""Examples as the model sees them: what is learned, special tokens, borders in a packed row."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from effchal.config import Config, ConfigError
from effchal.mixing.best_fit import best_fit
from effchal.mixing.encode import IGNORE_INDEX, EncodedExample
from effchal.mixing.prepare import PreparedData
from effchal.model.tokenizer import load_tokenizer

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


def lines(cfg: Config, data: PreparedData, marks: Marks) -> Iterator[str]:
    """Lines: the examples that `show.*` asks for, in the order and the rows of training.

    Raises:
        ConfigError: a source or an example that the mix does not have.
    """
    ids, source, sources = set(cfg.show.ids), cfg.show.source, cfg.data_mix.sources
    if source is not None and source not in sources:
        raise ConfigError(f"show.source={source}: the sources are {', '.join(sources)}")
    yield marks.legend
    tokenizer = load_tokenizer(cfg.model)
    shown: set[str] = set()
    for step in range(data.order.steps):
        examples, chosen = data.order.examples_of_step(step), set()
        for position, example in enumerate(examples):
            name = example.id.rpartition(":")[0]
            is_wanted = example.id in ids if ids else source in (None, name)
            if is_wanted and example.id not in shown and len(shown) < (len(ids) or cfg.show.count):
                shown.add(example.id)
                chosen.add(position)
        if chosen:
            yield from step_lines(cfg, tokenizer, marks, step, examples, chosen)
        if len(shown) == (len(ids) or cfg.show.count):
            return
    for example in data.validation if ids else []:
        if example.id in ids:
            shown.add(example.id)
            yield from ("", "══ validation", *example_lines(example, tokenizer, marks))
    if ids - shown:
        raise ConfigError(
            f"show.ids: no {', '.join(sorted(ids - shown))} in the mix; an id is "
            "<source>:<row, from 0>, and mix.md tells what was left out"
        )


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
    rows = best_fit([len(each.ids) for each in examples], most, size, train.packing)
    for number, row in enumerate(rows, start=1):
        if chosen.isdisjoint(row):
            continue
        tokens = sum(len(examples[i].ids) for i in row)
        of = f" of {size * most:,}" if train.packing else ""
        yield ""
        yield f"══ step {step + 1}, row {number} of {len(rows)}: {tokens:,}{of} tokens"
        for i in row:
            if i in chosen:
                yield from example_lines(examples[i], tokenizer, marks)
            else:
                yield f"── {examples[i].id}: {len(examples[i].ids):,} tokens, not shown"


def example_lines(example: EncodedExample, tokenizer: Any, marks: Marks) -> Iterator[str]:
    learned = sum(target != IGNORE_INDEX for target in example.targets)
    cut = ", cut at model.max_seq_len" if example.truncated else ""
    yield f"── {example.id}: {len(example.ids):,} tokens, {learned:,} learned{cut}"
    yield spelled(example, tokenizer, marks)


def spelled(example: EncodedExample, tokenizer: Any, marks: Marks) -> str:
    """The text of an example's ids, marked."""
    ids = example.ids
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # A target is learned where it is predicted: one position before its token.
    learned = [False, *(target != IGNORE_INDEX for target in example.targets[:-1])]
    kinds = [(learned[t], ids[t] in special) for t in range(len(ids))]
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
