"""A user's own function that grades answers."""

import json
import math

import numpy as np
import pytest
from support.configs import compose_config

from effchal.config import ConfigError
from effchal.evaluation.questions.files import own_files
from effchal.evaluation.questions.grader import GraderError, load_grader, scores_of

GRADE = "def grade(prompt, answer, row):\n    return {}\n"


def grader(folder, result, before=""):
    (folder / "g.py").write_text(before + GRADE.format(result))
    return load_grader(f"{folder}/g.py:grade")


def graded(found, answer="x", row=None, prompt="p"):
    return found.grade("q.jsonl, line 3", prompt, row or {"answer": "x"}, answer)


def test_it_is_called_with_prompt_answer_and_row(tmp_path):
    found = grader(tmp_path, "(prompt, answer, row) == ('p', 'x', {'answer': 'x'})")
    assert graded(found) == {"score": 1.0, "grade": 1.0}
    assert graded(found, "y") == {"score": 0.0, "grade": 0.0}


def test_it_cannot_change_the_row(tmp_path):
    row = {"answers": ["x"]}
    assert graded(grader(tmp_path, "bool(row['answers'].clear() or True)"), row=row)["score"] == 1
    assert row == {"answers": ["x"]}


@pytest.mark.parametrize(
    ("result", "scores"),
    [
        (True, {"score": 1.0, "grade": 1.0}),
        (3, {"score": 3.0, "grade": 3.0}),
        (np.float32(0.5), {"score": 0.5, "grade": 0.5}),
        (np.bool_(True), {"score": 1.0, "grade": 1.0}),
        ({"length": 3, "score": 0.5}, {"score": 0.5, "length": 3.0}),
        ({"f1": 0.25}, {"score": 0.25, "f1": 0.25}),
    ],
)
def test_numbers_of_all_kinds_are_scores(result, scores):
    assert scores_of(result, "grade") == scores
    assert next(iter(scores_of(result, "grade"))) == "score"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (math.nan, "nan; it must be a finite number"),
        (math.inf, "inf; it must be a finite number"),
        (None, "None; it must be a finite number"),
        ("1", "'1'; it must be a finite number"),
        ({}, "the keys of its dict must be names"),
        ({1: 0.5}, "the keys of its dict must be names"),
        ({"a": 1, "b": 2}, "one of several numbers must be called 'score'"),
        ({"score": math.nan}, "'score': nan"),
    ],
)
def test_what_is_no_score_is_refused(result, message):
    with pytest.raises(ValueError, match=message):
        scores_of(result, "grade")


def test_an_exception_names_row_function_and_line(tmp_path):
    found = grader(tmp_path, "1 / (len(answer) - 1)")
    with pytest.raises(
        GraderError, match=r"^q\.jsonl, line 3: g\.py:grade, line 2 raised ZeroDivisionError: "
    ):
        graded(found)
    with pytest.raises(GraderError, match=r"line 3: g\.py:grade returned nan; it must be a fin"):
        graded(grader(tmp_path, "float('nan')"))


def test_what_lies_beside_it_can_be_imported(tmp_path):
    (tmp_path / "beside_the_grader.py").write_text("VALUE = 0.25\n")
    found = grader(tmp_path, "beside_the_grader.VALUE", "import beside_the_grader\n")
    assert graded(found)["score"] == 0.25


@pytest.mark.parametrize(
    ("text", "content", "message"),
    [
        ("g.py", "", "give evaluate.grader=<file.py>:<function>"),
        ("gone.py:grade", "", r"no file gone\.py \(from "),
        ("g.py:other", "", r"g\.py has no function other; it has grade"),
        ("g.py:LIMIT", "LIMIT = 3\n", "has no function LIMIT; it has grade"),
        (
            "g.py:grade",
            "raise RuntimeError('no key')\n",
            "cannot be imported: RuntimeError: no key",
        ),
        ("g.py:grade", "import sys; sys.exit(1)\n", "cannot be imported: SystemExit"),
        ("g.py:grade", "(\n", "cannot be imported: SyntaxError"),
        (
            "g.py:two",
            "def two(a, b): return 1\n",
            r"called as two\(prompt, answer, row\): too many",
        ),
        ("g.txt:grade", "", "its name must end in .py"),
    ],
)
def test_a_function_that_is_none_is_refused_at_once(tmp_path, monkeypatch, text, content, message):
    monkeypatch.chdir(tmp_path)
    for name in ("g.py", "g.txt"):
        (tmp_path / name).write_text(content + GRADE.format(1))
    with pytest.raises(ConfigError, match=message):
        load_grader(text)


def read(folder, *rows, grader="g.py:grade"):
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = own_files(compose_config(["scenario.data=[q.jsonl]", f"evaluate.grader={grader}"]))
    return found.scenarios[0].instances, found.record


def test_rows_without_a_match_are_graded_and_need_no_answer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.py").write_text(GRADE.format("len(prompt) + row['bonus']"))
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]
    rows = [{"prompt": "pp", "bonus": 3}, {"prompt": "p", "answer": "a", "match": "exact"}]
    rows += [{"messages": [*turns, turns[0]], "bonus": 0.5}]
    rows += [{"prompt": "p", "choices": ["a", "b"], "correct": 0}]
    (first, second, third, fourth), record = read(tmp_path, *rows)
    assert first.own.grade("x") == {"score": 5.0, "grade": 5.0}
    assert second.own.grade("a")["exact"] == 1.0
    assert third.own.grade("x")["score"] == 3.5  # three messages
    assert fourth.own.grade([0.0, -1.0])["mc1"] == 1.0
    assert record["grader"]["function"] == "g.py:grade"
    assert len(record["grader"]["sha256"]) == 64


def test_a_changed_file_of_the_function_changes_the_digest_of_grading(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for result in (1, 1, 2):
        (tmp_path / "g.py").write_text(GRADE.format(result))
        found.append(read(tmp_path, {"prompt": "p"})[0][0].own.grading)
    assert found[0] == found[1] != found[2]


def test_a_grader_without_questions_is_refused():
    with pytest.raises(ConfigError, match=r"evaluate\.grader grades questions of your own"):
        own_files(compose_config(["evaluate.grader=g.py:grade"]))


def test_what_the_function_imports_of_its_folder_is_in_the_digest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rubric" / "parts").mkdir(parents=True)
    files = {
        "g_help.py": "import json\nimport numpy\nWORTH = 1\n",
        "rubric/__init__.py": "from .parts.deep import WORTH\n",
        "rubric/parts/__init__.py": "",
        "rubric/parts/deep.py": "import g_help\nWORTH = g_help.WORTH\n",
        "rubric/unused.py": "",
        "json.py": "never loaded: Python has one\n",
        "q.jsonl": "",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    lazily = "def grade(prompt, answer, row):\n    import rubric\n    return rubric.WORTH\n"
    (tmp_path / "g.py").write_text(lazily)
    (first,), record = read(tmp_path, {"prompt": "p"})
    imports = record["grader"]["imports"]
    deep = ["rubric/__init__.py", "rubric/parts/__init__.py", "rubric/parts/deep.py"]
    assert list(imports) == ["g_help.py", *deep]
    assert first.own.grade("x")["score"] == 1
    (tmp_path / "g_help.py").write_text("WORTH = 2\n")
    (second,), again = read(tmp_path, {"prompt": "p"})
    assert second.own.grading != first.own.grading
    assert again["grader"]["imports"]["g_help.py"] != imports["g_help.py"]
    (tmp_path / "rubric" / "unused.py").write_text("changed = 1\n")
    assert read(tmp_path, {"prompt": "p"})[0][0].own.grading == second.own.grading
