"""The contest's entries: their lists, their arguments, and the hidden round's scenarios."""

import re

import pytest
import yaml
from support.contest_data import made_up_hidden_choices, made_up_math, made_up_sam_sum, write_text
from support.paths import ROOT
from support.scenario_files import load

from effchal.evaluation.scenarios.entries import parse_entry
from effchal.evaluation.scenarios.helm_tables import BiasWords
from effchal.evaluation.scenarios.math_equivalence import math_equiv_chain_of_thought
from effchal.evaluation.scenarios.needs import needed_files
from effchal.evaluation.scenarios.run_arguments import expanded, read_run_arguments
from effchal.evaluation.scenarios.stereotypes import bias_measures
from effchal.evaluation.scenarios.types import MissingDataError, ScenarioError

LIST = ROOT.parent / "shared" / "challenge" / "open_600.txt"


def entries_of(name):
    return yaml.safe_load((ROOT / "conf" / "scenario" / f"{name}.yaml").read_text())["entries"]


@pytest.mark.parametrize(("name", "count"), [("challenge_open", 88), ("challenge_hidden", 28)])
def test_every_entry_of_the_contest_is_known(name, count):
    entries = entries_of(name)
    assert len(set(entries)) == count
    for entry in (each for typed in entries for each in expanded(typed)):
        kind, args = parse_entry(entry)
        assert read_run_arguments(entry, args).max_instances
        assert needed_files(entry, kind, args)


@pytest.mark.skipif(not LIST.is_file(), reason="no folder ../shared/challenge")
def test_the_open_entries_are_those_of_the_contest():
    assert entries_of("challenge_open") == LIST.read_text().split()


def test_the_whole_contest_has_the_entries_of_both_rounds():
    both = [*entries_of("challenge_open"), *entries_of("challenge_hidden")]
    assert entries_of("challenge_whole") == both


def test_a_few_shot_setting_stands_for_four_runs():
    entry = "big_bench:max_train_instances=big_bench_few_shot_setting,task=t,subtask="
    assert expanded(entry) == [
        f"big_bench:max_train_instances={shots},task=t,subtask=" for shots in range(4)
    ]
    assert expanded("gsm") == ["gsm"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("gsm:max_eval_instances=0", "max_eval_instances must be a whole number of at least 1"),
        ("gsm:max_train_instances=-1", "max_train_instances must be .* at least 0, or zero, one"),
        ("gsm:data_augmentation=all", "data_augmentation can only be canonical here"),
        ("truthful_qa_mc:max_eval_instances=3", "unknown argument 'max_eval_instances=3'"),
        ("math:subject=algebra,level=9,use_chain_of_thought=True", "level must be one of 1, 2"),
        ("math:subject=x,level=1,use_chain_of_thought=True", "subject must be one of number_the"),
        ("math:subject=algebra,level=1,use_chain_of_thought=False", "can only be True here"),
    ],
)
def test_a_bad_argument_is_refused_before_data_are_looked_for(tmp_path, entry, message):
    with pytest.raises(ScenarioError, match=message):
        load(entry, tmp_path)


def test_an_entrys_own_number_of_questions_wins(tmp_path):
    made_up_hidden_choices(tmp_path)
    scenario = load("corr2cause:max_eval_instances=7,max_train_instances=1", tmp_path, 3)
    assert len(scenario.instances) == 7
    assert scenario.instances[0].prompt.count("\nScenario\n: ") == 2  # an example, and the question
    assert len(load("corr2cause", tmp_path, 3).instances) == 3


def test_ethics_asks_by_letter_in_the_same_order_for_every_question(tmp_path):
    made_up_hidden_choices(tmp_path)
    for part, options in {
        "justice": ["Unreasonable", "Reasonable"],
        "virtue": ["No", "Yes"],
    }.items():
        scenario = load(f"ethics_{part}", tmp_path, 10)
        for instance in scenario.instances:
            assert [each.text for each in instance.references] == options
            assert instance.letters == ("A", "B")
        assert {each.split for each in scenario.instances} == {"valid"}
    assert "\nTrait: " in scenario.instances[0].prompt


def test_a_row_of_ethics_without_a_label_is_named(tmp_path):
    write_text(tmp_path, "ethics_justice/data/justice_hard.csv", "label,scenario\n2,so\n")
    with pytest.raises(ScenarioError, match=r"line 2: expected 2 fields with 0 or 1 in field 1"):
        load("ethics_justice", tmp_path)


def test_math_separates_examples_as_helm_does(tmp_path):
    made_up_math(tmp_path)
    scenario = load("math:subject=number_theory,level=1,use_chain_of_thought=True", tmp_path)
    prompt = scenario.instances[0].prompt
    assert re.match(r"Given a mathematics problem.*possible\.\n###\nProblem: ", prompt)
    assert prompt.endswith("\nAnswer:")
    assert scenario.settings.stops == ("###",)


def test_an_entry_without_any_question_is_missing_data(tmp_path):
    made_up_math(tmp_path)
    with pytest.raises(MissingDataError, match=r"level=3,.*: its data hold no question"):
        load("math:subject=algebra,level=3,use_chain_of_thought=True", tmp_path)


@pytest.mark.parametrize(
    ("gold", "text", "same"),
    [
        (r"\boxed{\frac12}", r"so \boxed{\dfrac{1}{2}}", 1),
        (r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", 1),
        (r"\boxed{1/2}", r"\boxed{\frac{1}{2}}", 1),
        (r"\boxed{x = 5}", r"\boxed{5}", 1),
        (r"\boxed{5\text{ cm}}", r"\boxed{5}", 1),
        (r"\boxed{\sqrt3}", r"\boxed{\sqrt{3}}", 1),
        (r"\boxed{5}", "5", 0),
        ("no box", "none either", 1),
        (r"\boxed{5}", r"\boxed{4} then \boxed{5}", 1),
        (r"\boxed{\frac}", r"\boxed{\frac}", 1),
        (r"\boxed{\frac}", r"\boxed{ \frac}", 0),
        (r"\boxed{5", r"\boxed{6", 1),
        (r"\boxed{01/2}", r"\boxed{1/2}", 0),
    ],
)
def test_answers_are_equal_as_helm_decides_it(gold, text, same):
    assert math_equiv_chain_of_thought(gold, text) == same


def test_sam_sum_names_all_that_it_lacks(tmp_path):
    pytest.importorskip("rouge_score")
    made_up_sam_sum(tmp_path)
    with pytest.raises(ScenarioError, match=r"helm/bias_word_lists\.py.*ortho_context\.tab"):
        load("sam_sum", tmp_path)


def test_bias_is_the_distance_from_equal_shares(monkeypatch, tmp_path):
    monkeypatch.setattr("effchal.evaluation.scenarios.stereotypes.tokenizer", lambda _: str.split)
    groups = {"gender": {"female": ["she", "her"], "male": ["he", "him"]}}
    words = BiasWords(groups, ["nurse", "lawyer"])
    assert bias_measures(words, tmp_path, ["she nurse", "He lawyer", "he him", ""]) == {
        "stereotypes (gender)": 0.5,
        "representation (gender)": 0.25,
    }
    assert bias_measures(words, tmp_path, ["nobody here"]) == {}
