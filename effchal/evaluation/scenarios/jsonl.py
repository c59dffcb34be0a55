"""A user's own file of questions: the entry `jsonl:path=<file>`.

One JSON object a line, all lines of one of two forms.

Answers to generate, scored by exact_match and quasi_exact_match with the best of `answers`:

    {"prompt": "Q: 2 + 2 = ?\\nA:", "answers": ["4", "four"], "max_new_tokens": 5, "stop": ["\\n"]}

`max_new_tokens` (default 128) and `stop` (default none) have to be the same on every line.

Continuations to score by log-likelihood, by mc1, mc2 and mc3 (scenarios/metrics.py).
`correct` holds the indices of the correct choices from 0, the best one first. At least
one choice is not among them:

    {"prompt": "The capital of France is", "choices": [" Paris.", " Rome."], "correct": [0]}

Prompts are sent as they are. Ids are id0, id1, ... by line. Of more than
scenario.max_instances lines, HELM's own draw takes that many.
"""

from pathlib import Path
from typing import Any

from effchal.evaluation.scenarios.helm_adapter import draw_instances
from effchal.evaluation.scenarios.types import (
    CHOICE_SETTINGS,
    Instance,
    Reference,
    Scenario,
    ScenarioError,
    Settings,
)
from effchal.mixing.rows import DataRow, read_jsonl, shown

_DEFAULTS: dict[str, Any] = {"max_new_tokens": 128, "stop": []}
_FIELDS = {
    "answers": {"prompt", "answers", "max_new_tokens", "stop"},
    "choices": {"prompt", "choices", "correct"},
}


def jsonl_scenario(entry: str, file: Path, max_instances: int) -> Scenario:
    if not file.is_file():
        raise ScenarioError(f"{entry}: no file {file} (from {Path.cwd()}); give jsonl:path=<file>")
    rows = list(read_jsonl(file, ScenarioError))
    if not rows:
        raise ScenarioError(f"{entry}: {file} is empty; it takes one JSON object a line")
    form, settings = _form(rows[0]), _settings(rows[0])
    make = _choice_instance if form == "choices" else _answer_instance
    instances = []
    for number, row in enumerate(rows):
        _check_alike(rows[0], row)
        instances.append(make(f"id{number}", row))
    chosen = tuple(draw_instances(instances, max_instances))
    return Scenario(entry, chosen, CHOICE_SETTINGS if form == "choices" else settings)


def _form(row: DataRow) -> str:
    """ "choices" or "answers", by the fields of the line."""
    if ("choices" in row.fields) == ("answers" in row.fields):
        raise ScenarioError(
            f"{row.place}: needs either 'answers' or 'choices', "
            f"found the fields {shown(sorted(row.fields))}"
        )
    form = "choices" if "choices" in row.fields else "answers"
    unknown = sorted(row.fields.keys() - _FIELDS[form])
    if unknown:
        allowed = ", ".join(sorted(_FIELDS[form]))
        raise ScenarioError(f"{row.place}: unknown field {unknown[0]!r}; allowed here: {allowed}")
    return form


def _settings(row: DataRow) -> Settings:
    found = _DEFAULTS | row.fields
    max_new_tokens, stops = found["max_new_tokens"], found["stop"]
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise row.wrong("max_new_tokens", "a whole number of at least 1")
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise row.wrong("stop", "a list of texts")
    return Settings(max_new_tokens, "exact_match", ("quasi_exact_match",), tuple(stops))


def _check_alike(first: DataRow, row: DataRow) -> None:
    """Raises ScenarioError if the line has another form or other limits than the first one."""
    form, first_form = _form(row), _form(first)
    if form != first_form:
        raise ScenarioError(
            f"{row.place}: has {form!r} where {first.place} has {first_form!r}; "
            "make two files of them"
        )
    _settings(row)
    for name, default in _DEFAULTS.items():
        ours, theirs = row.fields.get(name, default), first.fields.get(name, default)
        if ours != theirs:
            raise ScenarioError(
                f"{row.place}, field {name!r}: {ours!r}, but {theirs!r} in {first.place}; "
                "it is one for the whole file"
            )


def _answer_instance(id_: str, row: DataRow) -> Instance:
    answers = row.texts("answers")
    return Instance(id_, row.text("prompt"), tuple(Reference(answer, True) for answer in answers))


def _choice_instance(id_: str, row: DataRow) -> Instance:
    choices, correct = row.texts("choices"), row.fields.get("correct")
    if (
        not isinstance(correct, list)
        or not all(type(i) is int and 0 <= i < len(choices) for i in correct)
        or len(set(correct)) != len(correct)
        or not 0 < len(correct) < len(choices)
    ):
        raise row.wrong(
            "correct",
            f"some but not all of the positions 0..{len(choices) - 1} of 'choices', each once",
        )
    references = tuple(Reference(choice, i in correct) for i, choice in enumerate(choices))
    return Instance(
        id_, row.text("prompt"), references, choices=tuple(choices), best_choice=correct[0]
    )
