"""A user's own file of questions as a scenario."""

import json

import pytest
from support.text_window import Window

from effchal.evaluation.scenarios.entries import load_scenario
from effchal.evaluation.scenarios.metrics import score_choices, score_completion
from effchal.evaluation.scenarios.types import ScenarioError


def load(entry):
    return load_scenario(entry, None, 5, Window())


def jsonl(folder, *rows):
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:path={path}"


def test_jsonl_with_answers(tmp_path):
    row = {"prompt": "2 + 2 =", "answers": ["4", "four"], "max_new_tokens": 3, "stop": ["\n"]}
    scenario = load(jsonl(tmp_path, row, row | {"prompt": "1 + 3 ="}))
    assert [(i.id, i.prompt) for i in scenario.instances] == [
        ("id0", "2 + 2 ="),
        ("id1", "1 + 3 ="),
    ]
    settings = scenario.settings
    assert (settings.max_new_tokens, settings.stops, settings.temperature) == (3, ("\n",), 0.0)
    assert score_completion(scenario, scenario.instances[0], " Four.") == {
        "exact_match": 0,
        "quasi_exact_match": 1,
    }


def test_jsonl_with_choices(tmp_path):
    scenario = load(
        jsonl(tmp_path, {"prompt": "p", "choices": [" a", " b", " c"], "correct": [2, 0]})
    )
    instance = scenario.instances[0]
    assert (instance.choices, instance.correct_choices, instance.best_choice) == (
        (" a", " b", " c"),
        (True, False, True),
        2,
    )
    assert score_choices(instance, [-1.0, -2.0, -3.0]) == {
        "mc1": 0,
        "mc2": pytest.approx(0.7553, abs=1e-4),
        "mc3": 0.5,
    }
    assert scenario.settings.main_metric == "mc1"


ANSWERS = {"prompt": "p", "answers": ["a"]}
CHOICES = {"prompt": "p", "choices": ["a", "b"], "correct": [0]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([{"prompt": "p"}], "line 1: needs either 'answers' or 'choices'"),
        ([ANSWERS | CHOICES], "line 1: needs either 'answers' or 'choices'"),
        (
            [ANSWERS, ANSWERS | {"answer": "a"}],
            "line 2: unknown field 'answer'; allowed here: answers, max_new_tokens",
        ),
        ([ANSWERS, CHOICES], "line 2: has 'choices' where .*line 1 has 'answers'"),
        ([ANSWERS | {"prompt": 5}], "line 1, field 'prompt': expected text, found int 5"),
        (
            [ANSWERS | {"answers": []}],
            r"field 'answers': expected a list of texts, found list \[\]",
        ),
        ([ANSWERS | {"answers": ["\ud800"]}], "field 'answers', item 1: half a character"),
        (
            [ANSWERS | {"max_new_tokens": 0}],
            "field 'max_new_tokens': expected a whole number of at least 1, found int 0",
        ),
        ([ANSWERS | {"stop": "\n"}], "field 'stop': expected a list of texts"),
        (
            [ANSWERS, ANSWERS | {"max_new_tokens": 5}],
            "line 2, field 'max_new_tokens': 5, but 128 in .*line 1",
        ),
        ([CHOICES | {"correct": [2]}], r"field 'correct': .*positions 0..1 .*found list \[2\]"),
        ([CHOICES | {"correct": [0, 1]}], "field 'correct': expected some but not all"),
        ([CHOICES | {"correct": [True]}], "field 'correct'"),
    ],
)
def test_a_malformed_file_of_ones_own_names_line_field_and_value(tmp_path, rows, message):
    with pytest.raises(ScenarioError, match=message):
        load(jsonl(tmp_path, *rows))


def test_a_missing_file_of_ones_own(tmp_path):
    with pytest.raises(
        ScenarioError, match=rf"no file {tmp_path}/none.jsonl .*give jsonl:path=<file>"
    ):
        load(f"jsonl:path={tmp_path}/none.jsonl")
