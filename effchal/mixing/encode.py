"""Conversations -> token ids and targets, in batches, kept in memory-mapped files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from effchal.config import ModelConfig, PromptConfig
from effchal.config.choices import LossOn, TooLong
from effchal.mixing.store import mapped_table, write_arrow
from effchal.mixing.too_long import shortened, split_by_turns
from effchal.prompts.encoder import PromptEncoder, Turn

IGNORE_INDEX = -100
ROWS = 1024  # examples in each batch of a file but the last
NO_ANSWER = "no_answer_left"  # why an example is dropped: cut before its answer
Ints = npt.NDArray[Any]


@dataclass(frozen=True)
class EncodedExample:
    id: str
    ids: Ints  # (T,)
    targets: Ints  # (T,) int64: the token to predict at each position, or IGNORE_INDEX
    truncated: bool


@dataclass(frozen=True)
class EncodedBatch:
    """Some examples after each other, in few arrays, so that they pass between processes fast."""

    rows: Ints  # (examples,) int64: which conversation each example is of
    lengths: Ints  # (examples,) int32
    ids: Ints  # (tokens,) uint32
    learned: Ints  # (tokens,) bool: whether it is a target
    truncated: Ints  # (examples,) bool
    dropped: list[tuple[int, str]]  # conversation, reason

    def examples(self) -> Iterator[tuple[Ints, Ints]]:
        """Ids and learned of each example."""
        start = 0
        for end in np.cumsum(self.lengths).tolist():
            yield self.ids[start:end], self.learned[start:end]
            start = end


@dataclass(frozen=True)
class EncodeWork:
    """All that the ids and targets of an example depend on, besides its turns."""

    model: ModelConfig  # its tokenizer
    prompt: PromptConfig
    max_seq_len: int
    loss_on: LossOn = LossOn.answers
    too_long: TooLong = TooLong.cut

    @cached_property
    def prompts(self) -> PromptEncoder:
        from effchal.model.tokenizer import load_tokenizer

        return PromptEncoder(load_tokenizer(self.model), self.prompt)

    def __getstate__(self) -> dict[str, Any]:
        """Each process loads the tokenizer itself."""
        return {name: value for name, value in vars(self).items() if name != "prompts"}

    def __call__(self, batch: Iterable[bytes]) -> EncodedBatch:
        """Encode conversations as stored: see turns_of."""
        return self.encode([turns_of(stored) for stored in batch], self.prompts)

    def encode(
        self, conversations: Sequence[Sequence[Turn]], prompts: PromptEncoder
    ) -> EncodedBatch:
        conversations = [self._learned_turns(turns) for turns in conversations]
        encoded = prompts.conversations(conversations)
        examples: list[tuple[int, Ints, Ints, bool]] = []  # row, ids, learned, truncated
        dropped: list[tuple[int, str]] = []
        for row, (turns, both) in enumerate(zip(conversations, encoded, strict=True)):
            if self.too_long is TooLong.drop and len(both[0]) > self.max_seq_len:
                dropped.append((row, "too_long"))
                continue
            for ids, learned, is_cut in self._examples(turns, *both, prompts):
                # The first token is no target: nothing comes before it.
                if learned[1:].any():
                    examples.append((row, ids, learned, is_cut))
                else:
                    dropped.append((row, NO_ANSWER))
        rows, all_ids, flags, truncated = zip(*examples, strict=True) if examples else ((),) * 4
        return EncodedBatch(
            np.asarray(rows, np.int64),
            np.asarray([len(ids) for ids in all_ids], np.int32),
            np.concatenate([np.empty(0, np.uint32), *all_ids]),
            np.concatenate([np.empty(0, bool), *flags]),
            np.asarray(truncated, bool),
            dropped,
        )

    def _examples(
        self, turns: Sequence[Turn], ids: Any, learned: Any, prompts: PromptEncoder
    ) -> Iterator[tuple[Ints, Ints, bool]]:
        """The examples of one conversation: one, several where it is split, or none."""
        limit = self.max_seq_len
        is_text, cuts_prompt = turns[0].role == "text", self.too_long is TooLong.cut_prompt
        if len(ids) <= limit or self.too_long is TooLong.cut or (is_text and cuts_prompt):
            yield self._cut(ids, learned)  # a text has no prompt
        elif is_text:  # in pieces, each learned as a whole
            for start in range(0, len(ids), limit):
                yield self._cut(ids[start : start + limit], learned[start : start + limit])
        else:
            fit = shortened if cuts_prompt else split_by_turns
            for part in fit(turns, prompts, limit):
                is_cut = cuts_prompt and part != turns
                yield self._cut(*prompts.conversation_ids(part), is_cut)

    def _cut(self, ids: Any, learned: Any, is_cut: bool = False) -> tuple[Ints, Ints, bool]:
        """Ids and flags of one example, cut after max_seq_len tokens, and whether it was cut.

        The end-of-sequence token after an answer is a target. A cut answer has none: the model
        must not learn to stop there.
        """
        limit = self.max_seq_len
        flags = np.asarray(learned[:limit], bool)
        if self.loss_on is LossOn.all:
            flags = np.ones_like(flags)
        return np.asarray(ids[:limit], np.uint32), flags, is_cut or len(ids) > limit

    def _learned_turns(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns, of which only the last answer is learned if loss_on says so."""
        if self.loss_on is not LossOn.last:
            return list(turns)
        last = max(i for i, turn in enumerate(turns) if turn.role in ("assistant", "text"))
        return [replace(t, learn=t.learn and i == last) for i, t in enumerate(turns)]


def targets_of(ids: Ints, learned: Ints) -> Ints:
    """The token to predict at each position.

    Shifted here and not in the loss: the last token of an example must not predict the next.
    """
    targets = np.full(len(ids), IGNORE_INDEX, np.int64)
    targets[:-1] = np.where(learned[1:], ids[1:], IGNORE_INDEX)
    return targets


def stored_turns(turns: Sequence[Turn]) -> bytes:
    """Turns as the cache keeps them."""
    parts = [[turn.role, turn.content, turn.learn] for turn in turns]
    return orjson.dumps(parts)


def turns_of(stored: bytes) -> tuple[Turn, ...]:
    return tuple(Turn(*part) for part in orjson.loads(stored))


SCHEMA = pa.schema(
    {
        "row": pa.int64(),  # of the conversations that were encoded
        "length": pa.int32(),
        "targets": pa.int32(),  # how many
        "truncated": pa.bool_(),
        "ids": pa.list_(pa.uint32()),
        "learned": pa.list_(pa.bool_()),
    }
)


def write_encoded(path: Path, batches: Iterable[tuple[int, EncodedBatch]]) -> None:
    """Write examples in batches of ROWS.

    Args:
        batches: each with the number of its first conversation.
    """
    write_arrow(path, SCHEMA, _regrouped(batches))


def _regrouped(batches: Iterable[tuple[int, EncodedBatch]]) -> Iterator[pa.RecordBatch]:
    waiting: list[pa.RecordBatch] = []
    count = 0
    for first, batch in batches:
        waiting.append(_record_batch(first, batch))
        count += len(batch.rows)
        if count >= ROWS:
            table = pa.Table.from_batches(waiting, SCHEMA).combine_chunks()
            whole = count // ROWS * ROWS
            yield from table.slice(0, whole).to_batches(max_chunksize=ROWS)
            waiting, count = table.slice(whole).to_batches(), count - whole
    yield from pa.Table.from_batches(waiting, SCHEMA).combine_chunks().to_batches()


def _record_batch(first: int, batch: EncodedBatch) -> pa.RecordBatch:
    offsets = np.concatenate([[0], np.cumsum(batch.lengths)]).astype(np.int32)
    targets = [int(np.count_nonzero(learned[1:])) for _, learned in batch.examples()]
    columns = [
        pa.array(batch.rows + first),
        pa.array(batch.lengths),
        pa.array(targets, pa.int32()),
        pa.array(batch.truncated),
        pa.ListArray.from_arrays(offsets, pa.array(batch.ids)),
        pa.ListArray.from_arrays(offsets, pa.array(batch.learned)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class EncodedFile(Sequence[EncodedExample]):
    """The examples of one file, read from the mapped file when they are asked for."""

    def __init__(self, path: Path, id_of: Callable[[int], str]) -> None:
        """`id_of` tells the id of a conversation by its row."""
        self._id_of = id_of
        *columns, self._ids, self._learned = mapped_table(path).columns
        self.rows, self.lengths, self.target_counts, self.truncated = (
            column.to_numpy() for column in columns
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        ids = self._ids[index].values.to_numpy().astype(np.int64)
        learned = self._learned[index].values.to_numpy(zero_copy_only=False)
        targets, truncated = targets_of(ids, learned), bool(self.truncated[index])
        return EncodedExample(self.id_at(index), ids, targets, truncated)

    def id_at(self, index: int) -> str:
        return self._id_of(self.rows[index])
