"""Entries, their errors, prompts, and scores, without HELM; test_scenarios_helm.py compares with HELM itself."""

import json
import pickle
import shutil

import pytest
from support.paths import HELM_DATA, needs_shared_data
from support.text_window import Window

from effchal.config import ConfigError
from effchal.evaluation.scenarios import Reference, ScenarioError, load_scenario
from effchal.evaluation.scenarios.helm_adapter import Item, draw_instances, draw_shots, fit_prompt

TRUTHFUL_QA_HEADER = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"


def load(entry, path=None, max_instances=5):
    return load_scenario(entry, path, max_instances, Window())


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def mmlu(folder, dev="q,a,b,c,d,A\n", val="q,a,b,c,d,A\n", test="q,a,b,c,d,A\n"):
    for split, content in (("dev", dev), ("val", val), ("test", test)):
        write(folder, f"mmlu/data/{split}/x_{split}.csv", content)
    return folder


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "mmul:subject=anatomy",
            "unknown entry 'mmul'; known: mmlu, truthful_qa, bbq, gsm, big_bench",
        ),
        ("", "unknown entry ''"),
        (
            "mmlu",
            "no value for subject; it takes mmlu:subject=<subject>,.method=multiple_choice_joint.",
        ),
        ("mmlu:subject=", "no value for subject"),
        ("mmlu:subject=a,subject=b", "subject is given twice"),
        ("mmlu:anatomy", "unknown argument 'anatomy'; it takes mmlu:subject=<subject>"),
        (
            "mmlu:subject=anatomy,model=x",
            "unknown argument 'model=x'; it takes mmlu:subject=<subject>",
        ),
        ("mmlu:subject=anatomy,method=generation", "method can only be multiple_choice_joint here"),
        ("truthful_qa:task=generation", "task can only be mc_single here"),
        ("gsm:shots=3", "unknown argument 'shots=3'; it takes gsm alone"),
        (
            "big_bench:task=snarks",
            "no value for subtask; it takes big_bench:task=<task>,subtask=<subtask>",
        ),
        (
            "bbq:subject=religion",
            "subject must be one of Age, .*Religion, .* or all, got 'religion'",
        ),
        (
            "summarization_cnndm:temperature=hot",
            "temperature must be a number of at least 0, got 'hot'",
        ),
        ("summarization_cnndm:device=cuda", "device can only be cpu here"),
    ],
)
def test_an_entry_that_is_no_entry_is_refused_with_what_is_known(entry, message):
    with pytest.raises(ScenarioError, match=message):
        load(entry)


def test_a_scenario_error_is_a_config_error():
    assert issubclass(ScenarioError, ConfigError)


ENTRIES_WITH_DATA = {
    "mmlu:subject=x": "mmlu/data/dev/x_dev.csv",
    "truthful_qa:task=mc_single": "truthful_qa/data/TruthfulQA.csv",
    "truthful_qa_mc": "truthful_qa/data/TruthfulQA.csv",
    "bbq:subject=Age": "bbq/data/Age",
    "gsm": "gsm/gsm_data_train",
    "big_bench:task=t,subtask=": "big_bench/t/task.json",
    "big_bench:task=t,subtask=s": "big_bench/t/s/task.json",
    "summarization_cnndm:temperature=0.3,device=cpu": "summarization/data/cnndm.pk",
}


@pytest.mark.parametrize(("entry", "file"), ENTRIES_WITH_DATA.items())
def test_missing_data_names_the_file_and_the_key_to_set(tmp_path, entry, file):
    if entry.startswith("summarization"):
        pytest.importorskip("rouge_score")
    with pytest.raises(
        ScenarioError, match=rf"no file {tmp_path}/{file} .*give scenario.path=.*scenario.path=null"
    ):
        load(entry, tmp_path)


def test_mmlu_without_its_test_file_is_an_error_and_not_a_score_of_val_alone(tmp_path):
    mmlu(tmp_path)
    (tmp_path / "mmlu/data/test/x_test.csv").unlink()
    with pytest.raises(ScenarioError, match=r"no file .*x_test\.csv"):
        load("mmlu:subject=x", tmp_path)


BBQ_ROW = {
    "question_polarity": "neg",
    "context_condition": "ambig",
    "context": "Two people.",
    "question": "Who?",
    **{"ans0": "a", "ans1": "b", "ans2": "Unknown", "label": 2},
    "answer_info": {"ans0": ["old"], "ans1": ["nonOld"], "ans2": ["Unknown", "unknown"]},
    "additional_metadata": {"stereotyped_groups": ["old"]},
}


@pytest.mark.parametrize(
    ("entry", "file", "content", "message"),
    [
        (
            "mmlu:subject=x",
            "mmlu/data/dev/x_dev.csv",
            "q,a,b,c,d,A\nq,a,b\n",
            r"x_dev.csv, line 2: expected a question",
        ),
        (
            "mmlu:subject=x",
            "mmlu/data/dev/x_dev.csv",
            "q,a,b,c,d,E\n",
            "line 1, last field: expected a letter of ABCD",
        ),
        ("mmlu:subject=x", "mmlu/data/dev/x_dev.csv", b"q,\xff,b,c,d,A\n", "not UTF-8"),
        (
            "truthful_qa_mc",
            "truthful_qa/data/TruthfulQA.csv",
            "a,b\n",
            "line 1: expected the columns .*Best Answer",
        ),
        (
            "truthful_qa:task=mc_single",
            "truthful_qa/data/TruthfulQA.csv",
            TRUTHFUL_QA_HEADER + "t,c,q, ,x,y,s\n",
            "line 2, field 'Best Answer': expected text, found str ' '",
        ),
        (
            "truthful_qa_mc",
            "truthful_qa/data/TruthfulQA.csv",
            TRUTHFUL_QA_HEADER + "t,c,q,best,x; y,;,s\n",
            "line 2, field 'Incorrect Answers'",
        ),
        (
            "truthful_qa_mc",
            "truthful_qa/data/TruthfulQA.csv",
            TRUTHFUL_QA_HEADER + "t,c,q,best,x; y,z,s\n",
            r"line 2: the best answer 'best.' is not among the correct answers \['x.', 'y.'\]",
        ),
        (
            "gsm",
            "gsm/gsm_data_train",
            '{"question": "q"}\n',
            "gsm_data_train, line 1, field 'answer'.*found nothing",
        ),
        (
            "gsm",
            "gsm/gsm_data_train",
            "[1]\n",
            r"line 1: expected an object with named fields, found list \[1\]",
        ),
        ("gsm", "gsm/gsm_data_train", "{\n", "gsm_data_train, line 1, column 2: not JSON"),
        (
            "bbq:subject=Age",
            "bbq/data/Age",
            json.dumps(BBQ_ROW | {"label": 3}),
            "line 1, field 'label'.*found int 3",
        ),
        (
            "bbq:subject=Age",
            "bbq/data/Age",
            json.dumps(BBQ_ROW | {"question_polarity": "bad"}),
            "field 'question_polarity': expected one of neg, nonneg, found str 'bad'",
        ),
        (
            "bbq:subject=Age",
            "bbq/data/Age",
            json.dumps(BBQ_ROW | {"answer_info": {}}),
            "'answer_info', ans0",
        ),
        (
            "big_bench:task=t,subtask=",
            "big_bench/t/task.json",
            '{"examples": []}',
            "field 'examples'",
        ),
        (
            "big_bench:task=t,subtask=",
            "big_bench/t/task.json",
            "{\n{",
            "line 2, column 1: not JSON",
        ),
        (
            "big_bench:task=t,subtask=",
            "big_bench/t/task.json",
            '{"examples": [{"input": "x"}], "metrics": ["bleu"]}',
            "field 'metrics': expected multiple_choice_grade or exact_str_match among them, found bleu",
        ),
        (
            "big_bench:task=t,subtask=",
            "big_bench/t/task.json",
            '{"examples": [{"input": "x"}], "metrics": ["exact_str_match"]}',
            "example 1, field 'target', item 1: expected text, found nothing",
        ),
    ],
)
def test_malformed_data_names_file_place_field_and_value(tmp_path, entry, file, content, message):
    write(tmp_path, file, content)
    with pytest.raises(ScenarioError, match=message) as caught:
        load(entry, tmp_path)
    assert file in str(caught.value)


def test_a_pickle_that_could_run_code_is_refused(tmp_path):
    pytest.importorskip("rouge_score")
    write(tmp_path, "summarization/data/cnndm.pk", pickle.dumps({"train": Window()}))
    with pytest.raises(ScenarioError, match=r"cnndm.pk: not a pickle of plain dicts.*Window"):
        load("summarization_cnndm", tmp_path)


def test_mmlu_asks_as_helm_does(tmp_path):
    dev = 'Dev one?,1,2,3,4,B\n"Dev, two?",x,x,y,z,B\n'
    mmlu(tmp_path, dev, "Val?,5,6,7,8,A\n", "Test?,9,10,11,12,D\n")
    scenario = load("mmlu:subject=x", tmp_path)
    assert [(i.id, i.split, i.letters) for i in scenario.instances] == [
        ("id2", "valid", ("A", "B", "C", "D")),
        ("id3", "test", ("A", "B", "C", "D")),
    ]
    assert scenario.instances[1].prompt.startswith(
        "The following are multiple choice questions (with answers) about x.\n\nQuestion: Dev"
    )
    assert (
        "Question: Dev, two?\nA. x\nB. x\nC. y\nD. z\nAnswer: A\n\n" in scenario.instances[1].prompt
    )  # by text
    assert scenario.instances[1].prompt.endswith(
        "\n\nQuestion: Test?\nA. 9\nB. 10\nC. 11\nD. 12\nAnswer:"
    )
    settings = (scenario.max_new_tokens, scenario.stops, scenario.temperature, scenario.main_metric)
    assert settings == (1, (), 0.0, "exact_match")


def test_examples_are_one_per_answer_with_frequent_answers_first():
    train = [
        Item(str(number), (Reference(answer, True),), "train")
        for number, answer in enumerate("aabbbc")
    ]
    assert [shot.references[0].text for shot in draw_shots(train, 5)] == ["b", "a", "c", "b", "a"]
    assert draw_shots(train, 5) == draw_shots(train, 5)
    assert len(draw_shots(train, 9)) == 6
    assert draw_shots([], 5) == []


def test_few_questions_keep_their_order_and_many_are_drawn():
    assert draw_instances(range(5), 5) == [0, 1, 2, 3, 4]
    drawn = draw_instances(range(1000), 10)
    assert len(set(drawn)) == 10
    assert drawn != sorted(drawn)


def test_a_prompt_loses_its_last_examples_first_and_then_its_own_end():
    shots = ["a" * 1000, "b" * 900, "c" * 200]
    assert fit_prompt("", shots, "q", 1, Window()) == "\n".join([*shots[:2], "q"])
    assert fit_prompt("I", shots, "q" * 1500, 400, Window()) == "I\n" + "q" * 1500
    assert fit_prompt("I", shots, "q" * 3000, 400, Window()) == "I\n" + "q" * 1646


def test_truthful_qa_mc_splits_closes_and_orders_answers_as_published(tmp_path):
    row = 't,c,What? ,Best ,"best; Best; It is best.; ","No;No ; Not. ",s\n'
    write(tmp_path, "truthful_qa/data/TruthfulQA.csv", "\ufeff" + TRUTHFUL_QA_HEADER + row)
    scenario = load("truthful_qa_mc", tmp_path)
    instance = scenario.instances[0]
    assert instance.choices == (" best.", " Best.", " It is best.", " No.", " No.", " Not.")
    assert instance.correct_choices == (True, True, True, False, False, False)
    assert instance.best_choice == 1
    assert instance.prompt.startswith("Interpret each question literally, and as")
    assert instance.prompt.endswith(
        "\nA: The 1992 Olympics were held in Barcelona, Spain.\n\nQ: What? \nA:"
    )
    assert instance.prompt.count("\n\nQ: ") == 7


@needs_shared_data
def test_all_questions_of_truthful_qa_have_choices_and_a_best_one():
    scenario = load("truthful_qa_mc", HELM_DATA, 10_000)
    assert len(scenario.instances) == 817
    assert len({instance.id for instance in scenario.instances}) == 817
    for instance in scenario.instances:
        assert instance.correct_choices[instance.best_choice]
        assert not all(instance.correct_choices)
    asked = {
        i.id: i.prompt for i in load("truthful_qa:task=mc_single", HELM_DATA, 10_000).instances
    }
    question = scenario.instances[500].prompt.rpartition("Q: ")[2].removesuffix("\nA:")
    assert f"Question: {question}\n" in asked["id500"]  # one id, one question


@needs_shared_data
@pytest.mark.parametrize(
    "entry", ["gsm", "bbq:subject=Religion", "mmlu:subject=anatomy", "truthful_qa:task=mc_single"]
)
def test_the_same_question_is_asked_whatever_the_number_of_instances(entry, tmp_path):
    few = {i.id: i.prompt for i in load(entry, HELM_DATA, 5).instances}
    many = {i.id: i.prompt for i in load(entry, HELM_DATA, 10_000).instances}
    assert few.items() <= many.items()


@needs_shared_data
def test_a_file_may_start_with_or_without_a_byte_order_mark(tmp_path):
    source = HELM_DATA / "truthful_qa" / "data" / "TruthfulQA.csv"
    target = tmp_path / "truthful_qa" / "data" / "TruthfulQA.csv"
    target.parent.mkdir(parents=True)
    shutil.copyfile(source, target)
    with_mark = load("truthful_qa_mc", tmp_path)
    target.chmod(0o644)
    target.write_text(source.read_text(encoding="utf-8-sig"), encoding="utf-8")
    assert load("truthful_qa_mc", tmp_path) == with_mark
