"""What an engine does after a fault, so that only the row whose fault it is fails."""

from collections.abc import Iterable

import torch

from effchal.decoding.contrast import taps_of
from effchal.decoding.engine import Engine
from effchal.decoding.sequence import Row, Sequence, named
from effchal.decoding.taps import NewTokens
from effchal.decoding.transfer import upload
from effchal.model.faults import release


def rows_of(engine: Engine) -> set[Sequence]:
    """All sequences that a row of the engine holds."""
    return {each for row in engine.rows for each in row.sequences}


@torch.inference_mode()
def drop_failed(engine: Engine, sequences: Iterable[Sequence], error: Exception) -> None:
    """Fail the sequences of one prompt and free their rows; other rows stay as they are."""
    failed = set(sequences)
    for each in failed:
        if not each.done:
            each.fail(error)
    _forget_row_being_added(engine)
    for number in reversed(range(len(engine.rows))):
        if not failed.isdisjoint(engine.rows[number].sequences):
            engine.regroup(number)


def step_apart(engine: Engine) -> None:
    """One more token for each row by itself, after a step of all rows has failed.

    A row that fails alone, too, is dropped with its error.
    """
    _make_consistent(engine)
    for row in list(engine.rows):
        try:
            _step_row(engine, row)
        except Exception as error:
            release(error)
            drop_failed(engine, row.sequences, error)


@torch.inference_mode()
def _step_row(engine: Engine, row: Row) -> None:
    number = next(i for i, each in enumerate(engine.rows) if each is row)
    taps = taps_of(each.params.contrast for each in row.sequences)
    ids = upload([[row.next_id]], engine.model.device)
    at = torch.zeros(1, dtype=torch.int64, device=engine.model.device)
    new = NewTokens(engine.cache, number, ids, adapters=named([row.adapter]))
    states = engine.model.extend([new], taps, at)
    engine.advance([number], states, taps)


@torch.inference_mode()
def _make_consistent(engine: Engine) -> None:
    """Make cache and sequences agree, wherever the failed step stopped.

    Between two steps the cache holds all tokens of a row but its last one.
    """
    _forget_row_being_added(engine)
    # From the last, as in a step: dropping a row moves only rows that are stable already.
    for number in reversed(range(len(engine.rows))):
        row, held = engine.rows[number], engine.cache.lengths[number]
        running = [each for each in row.sequences if not each.done]
        behind = [each for each in running if len(row.prompt_ids) + len(each.ids) == held]
        if behind and len(behind) == len(running):
            engine.cache.shorten(number, held - 1)  # the step goes through the model once more
        else:
            for each in behind:  # the others of this row have their next token
                each.fail(RuntimeError("the step failed before this answer had its next token"))
        engine.regroup(number)


def _forget_row_being_added(engine: Engine) -> None:
    engine.cache.keep_rows(len(engine.rows))
