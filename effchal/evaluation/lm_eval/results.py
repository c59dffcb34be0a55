"""What lm-eval made of the answers, in the form of our own evaluations."""

from typing import Any

from effchal.config import EvaluateConfig
from effchal.evaluation.lm_eval.answers import CHOICES, GENERATED, Answers
from effchal.evaluation.results import (
    Answer,
    ChoiceAnswer,
    EntrySummary,
    Record,
    TextAnswer,
    prompt_digest,
    summarise,
)
from effchal.evaluation.scenarios.types import Reference
from effchal.tracking.text_tables import as_markdown

LOGPROB = "log-likelihood"  # of a question, where lm-eval has no metric of single questions
Scores = dict[str, Any]  # {task: {"questions": [...], "metrics": {...}}} of one decoding


def records_of(task: str, kind: str, scores: dict[str, Scores], answers: Answers) -> list[Record]:
    """A task's questions with their answers under all decodings that it was scored for.

    Args:
        kind: its type of output.
        scores: by decoding.
    """
    parts = {name: tasks[task]["questions"] for name, tasks in scores.items() if task in tasks}
    records = []
    for of_decodings in zip(*parts.values(), strict=True):
        first = of_decodings[0]
        decodings = {
            name: answer_of(kind, name, question, answers)
            for name, question in zip(parts, of_decodings, strict=True)
        }
        arguments = [request["args"] for request in first["requests"]]
        prompt = arguments[0][0]
        asked = [str(each) for given in arguments for each in given[kind != GENERATED :]]
        records.append(
            Record(
                task,
                str(first["id"]),
                "test",
                prompt_digest(prompt, asked),
                decodings,
                prompt=prompt,
                references=references_of(kind, first),
            )
        )
    return records


def answer_of(kind: str, decoding: str, question: dict[str, Any], answers: Answers) -> Answer:
    """The answers to a question's requests under one decoding, as one."""
    requests = question["requests"]
    found = [answers[request["key"]][decoding] for request in requests]
    logprobs = [each["logprob"] for each in found]
    target = question["target"]
    is_choice = kind == CHOICES and isinstance(target, int)
    metrics = question["metrics"] or {LOGPROB: logprobs[target] if is_choice else sum(logprobs)}
    if requests[0]["kind"] == GENERATED:
        return TextAnswer(**found[0], metrics=metrics)
    # Requests of one prompt were scored together, and have its layers in common.
    layers: dict[str, int] = {}
    contexts = {request["args"][0]: each for request, each in zip(requests, found, strict=True)}
    for each in contexts.values():
        for layer, count in each.get("layers", {}).items():
            layers[layer] = layers.get(layer, 0) + count
    return ChoiceAnswer(logprobs, metrics, layers or None)


def references_of(kind: str, question: dict[str, Any]) -> list[Reference] | None:
    """The choices, or the right answers; None where lm-eval's target does not say."""
    target, requests = question["target"], question["requests"]
    if kind == CHOICES:
        right = target if isinstance(target, list) else [target]
        return [Reference(each["args"][-1], i in right) for i, each in enumerate(requests)]
    texts = target if isinstance(target, list) else [target]
    known = kind == GENERATED and all(isinstance(text, str | int | float) for text in texts)
    return [Reference(str(text), True) for text in texts] if known else None


def summary_of(
    task: str, records: list[Record], scores: dict[str, Scores], cfg: EvaluateConfig
) -> EntrySummary:
    """Means with intervals; metrics of lm-eval's that are no mean over questions stand apart."""
    first = next(iter(records[0].decodings.values()))
    main_metric = next(iter(first.metrics), "")
    summary = summarise(records, main_metric, cfg)
    for name, decoded in summary.decodings.items():
        others = {
            metric: float(value)
            for metric, value in scores[name][task]["metrics"].items()
            if metric not in decoded.metrics and isinstance(value, int | float)
        }
        decoded.of_all_instances = others or None
    return summary


def others_table(
    entries: dict[str, EntrySummary], groups: dict[str, dict[str, dict[str, Any]]]
) -> str:
    """Markdown of lm-eval's numbers that have no interval; "" without one.

    Args:
        groups: by decoding and group, lm-eval's metrics.
    """
    rows = [
        (task, metric, name, f"{value:.4g}")
        for task, summary in entries.items()
        for name, metrics in summary.having("of_all_instances").items()
        for metric, value in metrics.items()
    ]
    rows += [
        (group, key.removesuffix(",none"), name, f"{value:.4g}")
        for name, of_decoding in groups.items()
        for group, metrics in of_decoding.items()
        for key, value in metrics.items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    ]
    head = ("task or group", "metric over all questions", "decoding", "score")
    return f"\n{as_markdown([head, *rows])}\n" if rows else ""
