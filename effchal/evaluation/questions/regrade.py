"""Answers that are there already, scored as their file and the user's function say now."""

import logging
from dataclasses import replace

from effchal.evaluation.answers import EvaluationTask
from effchal.evaluation.results import Answer, Record, TextAnswer
from effchal.evaluation.scenarios.types import Instance, Scenario

log = logging.getLogger("effchal.evaluate")


def grade_again(task: EvaluationTask, scenarios: list[Scenario]) -> None:
    """Score what was scored in another way than now, or not at all. No model is asked.

    Raises:
        GraderError: the user's function failed. What it graded before is kept.
    """
    changed: list[Record] = []
    try:
        for scenario in scenarios:
            pairs = zip(scenario.instances, task.records.of(scenario), strict=True)
            for instance, record in pairs:
                if is_stale(record, instance):
                    changed.append(graded(record, instance))
    finally:
        if changed:
            task.records.replace(changed)
            log.info("questions graded again: %d", len(changed))


def is_stale(record: Record, instance: Instance) -> bool:
    assert instance.own is not None  # every question of a user's file
    has_all = all(answer.metrics for answer in record.decodings.values())
    return record.grading != instance.own.grading or not has_all


def graded(record: Record, instance: Instance) -> Record:
    assert instance.own is not None
    decodings: dict[str, Answer] = {}
    for name, answer in record.decodings.items():
        given = answer.text if isinstance(answer, TextAnswer) else answer.logprobs
        decodings[name] = replace(answer, metrics=instance.own.grade(given))
    references = record.references
    if references is not None or not instance.choices:
        references = instance.asked_references
    return replace(record, decodings=decodings, grading=instance.own.grading, references=references)
