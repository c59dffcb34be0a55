"""A scenario's instances on their way through one engine, for one model or several."""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from effchal.evaluation.answers import (
    EvaluationTask,
    TaskBatch,
    params_of,
    recorded,
    score_batch,
    text_record,
)
from effchal.evaluation.encoding import shared_prefix
from effchal.evaluation.results import Record

log = logging.getLogger("effchal.evaluate")


def answers(wholes: list[TaskBatch]) -> Iterator[tuple[EvaluationTask, list[Record]]]:
    """Records of all instances, a batch at a time: those that generate, then those with choices.

    Batches do not depend on what is recorded already, so a resumed evaluation gives the same
    bits.

    Args:
        wholes: of one model; or of several on one base model, whose rows share each batch.

    Raises:
        ScenarioError: the data are not those of the records.
        FloatingPointError: the first model's logits are not finite. Another model's are left to
            its own evaluation.
    """
    for has_choices in (False, True):
        yield from answers_of_one_kind([of_one_kind(each, has_choices) for each in wholes])


def of_one_kind(batch: TaskBatch, has_choices: bool) -> TaskBatch:
    alike = [each for each in batch.encoded if bool(each.choice_ids) == has_choices]
    return replace(batch, encoded=alike)


def answers_of_one_kind(wholes: list[TaskBatch]) -> Iterator[tuple[EvaluationTask, list[Record]]]:
    first_task = wholes[0].task
    rows = max(1, first_task.cfg.evaluate.rows_at_once // len(wholes))
    prefixes = [shared_prefix([each.prompt_ids for each in one.encoded]) for one in wholes]
    engine_has_prefixes = False
    for start in range(0, max(len(one.encoded) for one in wholes), rows):
        batches = [replace(one, encoded=one.encoded[start : start + rows]) for one in wholes]
        known = [recorded(each.task.records, each.encoded) for each in batches]
        is_open = [len(a) < len(b.encoded) for a, b in zip(known, batches, strict=True)]
        yield from (
            (each.task, records)
            for each, records, waits in zip(batches, known, is_open, strict=True)
            if not waits
        )
        open_ = list(itertools.compress(zip(batches, prefixes, strict=True), is_open))
        if open_ and open_[0][0].encoded[0].choice_ids:
            for batch, prefix in open_:
                yield from alone(batch, first_task, partial(score_batch, batch, len(prefix)))
            continue
        if open_ and any(prefixes) and not engine_has_prefixes:
            pairs = zip(prefixes, wholes, strict=True)
            first_task.engine.hold_prefixes(
                (prefix, one.task.adapter) for prefix, one in pairs if prefix
            )
            engine_has_prefixes = True
        yield from generate_together([batch for batch, _ in open_], first_task)


def generate_together(
    batches: list[TaskBatch], first: EvaluationTask
) -> Iterator[tuple[EvaluationTask, list[Record]]]:
    """Records of batches of several models; if that fails, of each model by itself."""
    if len(batches) > 1:
        try:
            yield from generate_batches(batches)
            return
        except FloatingPointError:
            log.info("%s: each model by itself", batches[0].scenario.entry)
    for each in batches:
        yield from alone(each, first, partial(generate_batch, each))


def alone(
    batch: TaskBatch, first: EvaluationTask, answer: Callable[[], list[Record]]
) -> Iterator[tuple[EvaluationTask, list[Record]]]:
    """A batch's records. What fails of another model than the first is left to its evaluation."""
    try:
        yield batch.task, answer()
    except FloatingPointError as error:
        ids = ", ".join(each.instance.key for each in batch.encoded)
        what = f"{batch.scenario.entry}, one of {ids}: {error}"
        if batch.task is first:
            raise FloatingPointError(what) from error
        log.warning("%s; left to the model's own evaluation", what)


def generate_batch(batch: TaskBatch) -> list[Record]:
    ((_, records),) = generate_batches([batch])
    return records


def generate_batches(batches: list[TaskBatch]) -> list[tuple[EvaluationTask, list[Record]]]:
    """Records of instances that are answered by generated text, those of all models at once."""
    rows = [(one, each) for one in batches for each in one.encoded]
    params = [
        [params_of(one.task, one.scenario, each.instance, variant) for variant in one.task.variants]
        for one, each in rows
    ]
    found = batches[0].task.engine.generate(
        [each.prompt_ids for _, each in rows],
        params,
        len(rows),
        tuple(one.task.adapter for one, _ in rows),
    )
    by_task: dict[int, list[Record]] = {id(one.task): [] for one in batches}
    for (one, each), completions in zip(rows, found, strict=True):
        by_task[id(one.task)].append(text_record(one, each, completions))
    return [(one.task, by_task[id(one.task)]) for one in batches]
