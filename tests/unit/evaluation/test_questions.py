"""Files of a user's own questions: what their rows say, and what is refused."""

import json

import pytest
from support.configs import compose_config
from support.paths import ROOT

from effchal.config import ConfigError
from effchal.evaluation.questions.files import entry_names, own_files
from effchal.evaluation.scenarios.metrics import score_completion
from effchal.prompts.encoder import Turn


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(folder, *rows, name="q.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read(*names, overrides=()):
    return own_files(compose_config([f"scenario.data=[{','.join(names)}]", *overrides]))


def instances(folder, *rows, overrides=()):
    (scenario,) = read(write(folder, *rows), overrides=overrides).scenarios
    return scenario.instances


def score(instance, answer):
    return instance.own.grade(answer)


def test_the_example_holds_every_kind_and_each_is_told(caplog):
    example = ROOT / "examples" / "questions.jsonl"
    found = read(str(example))
    record = found.record["data"]["questions.jsonl"]
    assert record["kinds"] == {"answered": 5, "choices": 1, "letters": 1, "messages": 2}
    assert (record["rows"], record["asked"]) == (9, 9)
    assert "questions.jsonl: 5 answered, 1 choices, 1 letters, 2 messages; graded by" in caplog.text
    assert "exact, the default (1)" in caplog.text
    assert "a space put between prompt and choice (1)" in caplog.text
    (scenario,) = found.scenarios
    assert (scenario.entry, scenario.mixes_kinds) == ("questions.jsonl", True)
    assert scenario.settings.main_metric == "score"
    good = ["Paris", "red", "It is 1,800.", "1969-07-20", [0, -1, -2], "B", "so: 7", "Bonjour!"]
    good += ["A cat slept all day"]
    for instance, answer in zip(scenario.instances, good, strict=True):
        assert score(instance, answer)["score"] == 1.0


@pytest.mark.parametrize(
    ("row", "prompt", "right"),
    [
        ({"prompt": "p", "answers": ["a", "b"]}, "p", ["a", "b"]),
        ({"question": "p", "answer": "a"}, "p", ["a"]),
        ({"input": "p", "target": "a"}, "p", ["a"]),
        ({"instruction": "p", "output": "a", "input": ""}, "p", ["a"]),
        ({"question": "p", "answer": 4}, "p", ["4"]),
        ({"question": "p", "answer": 0.5, "targets": None}, "p", ["0.5"]),
    ],
)
def test_usual_names_of_fields_are_known(tmp_path, row, prompt, right):
    (one,) = instances(tmp_path, row)
    assert (one.prompt, [each.text for each in one.references]) == (prompt, right)
    assert score_completion(None, one, right[-1])["score"] == 1.0


@pytest.mark.parametrize(
    ("more", "correct"),
    [
        ({"correct": [1]}, [1]),
        ({"correct": 1}, [1]),
        ({"answer": "B"}, [1]),
        ({"answer": "rat"}, [1]),
        ({"label": "1"}, [1]),
        ({"correct": [2, 0]}, [2, 0]),
    ],
)
def test_right_choices_are_positions_letters_or_texts(tmp_path, more, correct):
    (one,) = instances(tmp_path, {"question": "q", "choices": ["cat", "rat", "dog"]} | more)
    assert [i for i, is_right in enumerate(one.correct_choices) if is_right] == sorted(correct)
    assert one.best_choice == correct[0]
    assert one.choices == (" cat", " rat", " dog")


def test_choices_of_arc_and_mmlu_are_read_as_they_are(tmp_path):
    arc = {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
    mmlu = {"question": "q", "subject": "anatomy", "choices": ["1", "2"], "answer": 1}
    for one in instances(tmp_path, arc | {"id": "a"}, mmlu):
        assert one.correct_choices == (False, True)


def test_no_space_is_put_where_one_stands(tmp_path):
    rows = [{"prompt": "p\n", "choices": ["a", "b"]}, {"prompt": "p", "choices": [" a", "b"]}]
    first, second = instances(tmp_path, *(row | {"correct": 0} for row in rows))
    assert (first.choices, second.choices) == (("a", "b"), (" a", "b"))


def test_a_letter_is_asked_for_below_the_options(tmp_path):
    row = {"prompt": "Which?", "choices": ["x", "y"], "correct": 1, "match": "letter"}
    (one,) = instances(tmp_path, row)
    assert one.prompt == "Which?\nA. x\nB. y\nAnswer:"
    assert (one.letters, one.choices, one.own.settings.max_new_tokens) == (("A", "B"), (), 8)
    assert score(one, "B. y") == {"score": 1.0, "letter": 1.0}
    assert score(one, "A") == {"score": 0.0, "letter": 0.0}


def test_messages_are_turns_and_a_last_answer_is_the_right_one(tmp_path):
    user, answer = {"role": "user", "content": "2?"}, {"role": "assistant", "content": "two"}
    first, second, third, fourth = instances(
        tmp_path,
        {"messages": [user, answer]},
        {"input": [user], "ideal": ["two", "2"]},
        {"system": "Count.", "prompt": "2?", "answer": "two"},
        {"messages": [user], "choices": ["two", "three"], "correct": 0},
    )
    assert first.own.turns == second.own.turns == fourth.own.turns == (Turn("user", "2?"),)
    assert third.own.turns == (Turn("system", "Count."), Turn("user", "2?"))
    assert third.prompt == "system: Count.\n\nuser: 2?"
    assert score(first, "two")["score"] == score(second, "2")["score"] == 1.0
    assert fourth.choices == ("two", "three")


def test_limits_may_differ_by_row_and_are_part_of_what_is_asked(tmp_path):
    row = {"prompt": "p", "answer": "a"}
    limits = {"max_new_tokens": 3, "stop": "\n", "temperature": 0.5}
    first, second = instances(tmp_path, row, row | limits, overrides=["decoding.max_new_tokens=77"])
    assert (first.own.settings.max_new_tokens, second.own.settings.max_new_tokens) == (77, 3)
    assert (second.own.settings.stops, second.own.settings.temperature) == (("\n",), 0.5)
    assert first.own.asked != second.own.asked


def test_the_default_match_is_number_for_numbers_and_else_as_configured(tmp_path):
    rows = [{"prompt": "p", "answer": 4}, {"prompt": "p", "answer": "4"}]
    number, exact = instances(tmp_path, *rows)
    assert score(number, "It is 4.")["score"] == 1.0
    assert score(exact, "It is 4.")["score"] == 0.0
    for one in instances(tmp_path, *rows, overrides=["scenario.match=contains"]):
        assert score(one, "It is 4.") == {"score": 1.0, "contains": 1.0}


def test_a_group_has_a_score_of_its_own_up_to_a_number_of_groups(tmp_path, caplog):
    row = {"prompt": "p", "answer": "a"}
    plain, sums = instances(tmp_path, row, row | {"category": "sums", "split": "test"})
    assert "score (sums)" in score(sums, "a")
    assert len(score(plain, "a")) == 3
    many = instances(tmp_path, *(row | {"group": i} for i in range(51)))
    assert len(score(many[0], "a")) == 3
    assert "51 groups; above 50 none is scored" in caplog.text


def test_what_grading_depends_on_changes_its_digest(tmp_path):
    row = {"prompt": "p", "answer": "a", "note": 1}
    (one,), (same,) = instances(tmp_path, row), instances(tmp_path, row)
    assert one.own.grading == same.own.grading
    for other in ({"answer": "b"}, {"match": "contains"}, {"note": 2}, {"group": "g"}):
        assert instances(tmp_path, row | other)[0].own.grading != one.own.grading


def test_a_table_spells_lists_as_json_and_leaves_cells_empty(tmp_path):
    (tmp_path / "t.csv").write_text(
        "question,answer,choices,correct,max_new_tokens,stop\n"
        '2+2?,4,,,8,"[""\\n""]"\n'
        'Sky?,,"[""blue"", ""[green]""]",0,,\n'
        'A list?,"[1, 2]",,,,\n'
    )
    first, second, third = read("t.csv").scenarios[0].instances
    assert (first.own.settings.max_new_tokens, first.own.settings.stops) == (8, ("\n",))
    assert second.choices == (" blue", " [green]")
    assert third.references[0].text == "[1, 2]"


def test_parquet_and_json_are_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"question": "q", "answer": "a", "choices": None}]
    rows += [{"question": "q", "answer": "B", "choices": ["x", "y"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.json").write_text(json.dumps(rows))
    for name in ("t.parquet", "t.json"):
        kinds = read(name).record["data"][name]["kinds"]
        assert kinds == {"answered": 1, "choices": 1}


def test_ids_are_those_of_the_file_and_else_row_numbers(tmp_path):
    row = {"prompt": "p", "answer": "a"}
    assert [i.id for i in instances(tmp_path, row | {"id": 7}, row)] == ["7", "row2"]
    with pytest.raises(ConfigError, match=r"line 2: the id 'x' is that of q\.jsonl, line 1, too"):
        instances(tmp_path, row | {"id": "x"}, row | {"id": "x"})


def test_some_of_the_rows_are_drawn(tmp_path):
    rows = [{"prompt": f"p{i}", "answer": "a"} for i in range(9)]
    assert len(instances(tmp_path, *rows, overrides=["scenario.max_rows=4"])) == 4
    assert len(instances(tmp_path, *rows, overrides=["scenario.max_instances=4"])) == 9


def test_files_of_one_name_are_told_apart():
    assert entry_names(["a/q.jsonl", "b/q.jsonl", "b/r.csv"]) == ["a/q.jsonl", "b/q.jsonl", "r.csv"]
    with pytest.raises(ConfigError, match=r"scenario\.data has \./q\.jsonl more than once"):
        entry_names(["q.jsonl", "./q.jsonl"][::-1])


ANSWERED = {"prompt": "p", "answers": ["a"]}
CHOICES = {"prompt": "p", "choices": ["a", "b"], "correct": [0]}
USER, ASSISTANT = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "p"}, r"no question among its fields \(text\); answered looks like \{\"prompt\""),
        ({"prompt": "p", "foo": 1}, r"no right answer among its fields \(prompt, foo\)"),
        ({"prompt": "p"}, r"or give evaluate\.grader=<file\.py>:<function>"),
        ({"prompt": "p", "choices": ["a", "b"]}, "no right choice among .*choices looks like"),
        ({"messages": [USER]}, "no right answer among .*messages looks like"),
        ({"messages": [USER, ASSISTANT], "answer": "y"}, "the last turn is the assistant's"),
        ({"messages": [ASSISTANT]}, "no user's turn before the answer"),
        ({"messages": [{"role": "system", "content": "x"}], "answer": "y"}, "no user's turn"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "field 'role': expected one of"),
        (ANSWERED | {"question": "q"}, "'prompt' and 'question' may both be meant"),
        (ANSWERED | {"answer": "q"}, "'answers' and 'answer' may both be meant"),
        (ANSWERED | {"max_tokens": 4}, "unknown field 'max_tokens'; is 'max_new_tokens' meant"),
        (ANSWERED | {"max_new_tokens": 0}, "expected a whole number of at least 1, found int 0"),
        (ANSWERED | {"stop": [""]}, "field 'stop': expected a text or a list of texts"),
        (ANSWERED | {"temperature": -1}, "field 'temperature': expected a number of at least 0"),
        (ANSWERED | {"match": "exakt"}, "field 'match': expected one of exact, quasi_exact"),
        (ANSWERED | {"match": "number"}, "match number with no number in 'a'"),
        (ANSWERED | {"id": ["x"]}, "field 'id': expected a name"),
        ({"prompt": "p", "answer": True}, "field 'answer': expected text, found bool True"),
        ({"prompt": "p", "answers": []}, "field 'answers': expected a text or a list of texts"),
        ({"prompt": 4, "answer": "a"}, "field 'prompt': expected text, found int 4"),
        (CHOICES | {"match": "exact"}, "field 'match': expected one of letter"),
        (CHOICES | {"choices": ["a"]}, "field 'choices': expected a list of 2 to 26 texts"),
        (CHOICES | {"correct": [2]}, r"positions 0\.\.1, letters or texts .*found list \[2\]"),
        (CHOICES | {"correct": [0, 1]}, "expected some but not all"),
        (CHOICES | {"correct": "C"}, "field 'correct'"),
        (CHOICES | {"choices": ["a", "a"], "correct": "a"}, "field 'correct'"),
        (CHOICES | {"choices": ["x", "A"], "correct": "A"}, "field 'correct'"),
    ],
)
def test_a_row_that_is_wrong_is_named_with_its_remedy(tmp_path, row, message):
    with pytest.raises(ConfigError, match=rf"^q\.jsonl, line 2.*({message})"):
        instances(tmp_path, ANSWERED, row)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["gone.jsonl"], r"no file gone\.jsonl \(from .*; give a .*folder of them, a pattern, or"),
        (["folder"], r"folder has no \.jsonl.* file to read; it has nothing"),
        (["gone/*.jsonl"], r"no file matches gone/\*\.jsonl"),
        (["no/such"], r"no/such is no file here, .*give scenario\.revision=.*: data=<\.jsonl"),
        (["t.txt"], r"t\.txt is no \.jsonl, \.json, \.csv"),
        (["empty.jsonl"], r"empty\.jsonl has no rows"),
        (["broken.jsonl"], r"broken\.jsonl, line 1, column 2: not JSON"),
    ],
)
def test_a_file_of_no_use_is_refused(tmp_path, names, message):
    (tmp_path / "folder").mkdir()
    for name, text in (("t.txt", "x"), ("empty.jsonl", ""), ("broken.jsonl", "{x}\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(*names)


def test_fields_without_use_are_told(tmp_path, caplog):
    instances(tmp_path, ANSWERED | {"difficulty": 3, "url": "x"})
    assert "fields not used: difficulty, url" in caplog.text
