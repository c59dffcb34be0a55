"""Entries and data that cannot be evaluated, and what their errors say."""

import json
import pickle

import pytest
from support.scenario_files import TRUTHFUL_QA_HEADER, load, mmlu, write
from support.text_window import Window

from effchal.config import ConfigError
from effchal.evaluation.scenarios.entries import parse_entry
from effchal.evaluation.scenarios.needs import needed_files
from effchal.evaluation.scenarios.types import ScenarioError


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
        ScenarioError,
        match=rf"no file {tmp_path}/{file}\b.*give scenario.path=.*scenario.path=null",
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
            "field 'answer_info', field 'ans0'",
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
            '{"examples": [{"input": "x"}], "metrics": ["bleurt"]}',
            "'metrics': expected multiple_choice_grade or one of exact_str_match, rouge, bleu "
            "among them, found bleurt",
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
    name, args = parse_entry(entry)
    for other in needed_files(entry, name, args):
        write(tmp_path, other, "")
    write(tmp_path, file, content)
    with pytest.raises(ScenarioError, match=message) as caught:
        load(entry, tmp_path)
    assert file in str(caught.value)


def test_a_pickle_that_could_run_code_is_refused(tmp_path):
    pytest.importorskip("rouge_score")
    write(tmp_path, "summarization/data/cnndm.pk", pickle.dumps({"train": Window()}))
    with pytest.raises(ScenarioError, match=r"cnndm.pk: not a pickle of plain dicts.*Window"):
        load("summarization_cnndm", tmp_path)
