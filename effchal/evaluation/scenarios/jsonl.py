"""A user's own file of questions: the entry `jsonl:path=<file>`.

One JSON object a line, all lines of one of two forms.

Answers to be generated, scored by exact_match and quasi_exact_match with the best of `answers`:

    {"prompt": "Q: 2 + 2 = ?\\nA:", "answers": ["4", "four"], "max_new_tokens": 5, "stop": ["\\n"]}

`max_new_tokens` (128 where absent) and `stop` (none where absent) have to be the same on every line.

Continuations to be scored by log-likelihood, by mc1, mc2 and mc3 (scenarios/metrics.py); `correct` has the
positions of the correct choices from 0, the best one first, and at least one choice is not among them:

    {"prompt": "The capital of France is", "choices": [" Paris.", " Rome.", " Lyon."], "correct": [0]}

Prompts are sent as they are. Ids are id0, id1, ... by line; of more than scenario.max_instances lines,
the same are chosen as HELM would choose.
"""

from pathlib import Path
from typing import Any

from effchal.evaluation.scenarios.files import check_texts, read_jsonl, shown, text_field
from effchal.evaluation.scenarios.helm_adapter import draw_instances
from effchal.evaluation.scenarios.types import Instance, Reference, Scenario, ScenarioError

DEFAULT_NEW_TOKENS = 128
_ANSWER_FIELDS = {"prompt", "answers", "max_new_tokens", "stop"}
_CHOICE_FIELDS = {"prompt", "choices", "correct"}


def jsonl_scenario(entry: str, file: Path, max_instances: int) -> Scenario:
    if not file.is_file():
        raise ScenarioError(f"{entry}: no file {file} (from {Path.cwd()}); give jsonl:path=<file>")
    instances: list[Instance] = []
    first: tuple[str, bool, int, list[str]] | None = None
    for number, (place, row) in enumerate(read_jsonl(file)):
        by_choices = _form(row, place)
        max_new_tokens, stops = _limits(row, place)
        found = (place, by_choices, max_new_tokens, stops)
        first = first or found
        _check_alike(first, found)
        make = _choice_instance if by_choices else _answer_instance
        instances.append(make(f"id{number}", row, place))
    if first is None:
        raise ScenarioError(f"{entry}: {file} is empty; it takes one JSON object a line")
    _, by_choices, max_new_tokens, stops = first
    chosen = tuple(draw_instances(instances, max_instances))
    if by_choices:
        return Scenario(entry, chosen, 0, (), 0.0, main_metric="mc1", other_metrics=("mc2", "mc3"))
    return Scenario(
        entry, chosen, max_new_tokens, tuple(stops), 0.0, "exact_match", ("quasi_exact_match",)
    )


def _form(row: dict[str, Any], place: str) -> bool:
    """Whether the line has choices."""
    if ("choices" in row) == ("answers" in row):
        raise ScenarioError(
            f"{place}: needs either 'answers' or 'choices', found the fields {shown(sorted(row))}"
        )
    allowed = _CHOICE_FIELDS if "choices" in row else _ANSWER_FIELDS
    unknown = sorted(row.keys() - allowed)
    if unknown:
        raise ScenarioError(
            f"{place}: unknown field {unknown[0]!r}; allowed here: {', '.join(sorted(allowed))}"
        )
    return "choices" in row


def _limits(row: dict[str, Any], place: str) -> tuple[int, list[str]]:
    max_new_tokens = row.get("max_new_tokens", DEFAULT_NEW_TOKENS)
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise ScenarioError(
            f"{place}, field 'max_new_tokens': expected a whole number of at least 1, found {shown(max_new_tokens)}"
        )
    stops = row.get("stop", [])
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ScenarioError(
            f"{place}, field 'stop': expected a list of texts, found {shown(stops)}"
        )
    return max_new_tokens, stops


def _check_alike(
    first: tuple[str, bool, int, list[str]], found: tuple[str, bool, int, list[str]]
) -> None:
    place, by_choices, max_new_tokens, stops = found
    if by_choices != first[1]:
        forms = {True: "choices", False: "answers"}
        raise ScenarioError(
            f"{place}: has {forms[by_choices]!r} where {first[0]} has {forms[first[1]]!r}; make two files of them"
        )
    for name, ours, theirs in (
        ("max_new_tokens", max_new_tokens, first[2]),
        ("stop", stops, first[3]),
    ):
        if ours != theirs:
            raise ScenarioError(
                f"{place}, field {name!r}: {ours!r}, but {theirs!r} in {first[0]}; it is one for the whole file"
            )


def _answer_instance(id_: str, row: dict[str, Any], place: str) -> Instance:
    answers = check_texts(row["answers"], f"{place}, field 'answers'")
    return Instance(
        id_, text_field(row, "prompt", place), tuple(Reference(answer, True) for answer in answers)
    )


def _choice_instance(id_: str, row: dict[str, Any], place: str) -> Instance:
    choices = check_texts(row["choices"], f"{place}, field 'choices'")
    correct = row.get("correct")
    positions = isinstance(correct, list) and all(
        type(p) is int and 0 <= p < len(choices) for p in correct
    )
    if not positions or len(set(correct)) != len(correct) or not 0 < len(correct) < len(choices):
        raise ScenarioError(
            f"{place}, field 'correct': expected some but not all of the positions 0..{len(choices) - 1} "
            f"of 'choices', each once, found {shown(correct)}"
        )
    flags = tuple(position in correct for position in range(len(choices)))
    return Instance(
        id_,
        text_field(row, "prompt", place),
        tuple(Reference(choice, flag) for choice, flag in zip(choices, flags, strict=True)),
        choices=tuple(choices),
        correct_choices=flags,
        best_choice=correct[0],
    )
