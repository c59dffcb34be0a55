"""Prompts and draws without HELM; test_scenarios_helm.py compares them with HELM itself."""

import shutil

import pytest
from support.paths import HELM_DATA, needs_shared_data
from support.scenario_files import TRUTHFUL_QA_HEADER, load, mmlu, write
from support.text_window import Window

from effchal.evaluation.scenarios.helm_adapter import (
    Item,
    PromptFormat,
    draw_instances,
    draw_shots,
    fit_prompt,
)
from effchal.evaluation.scenarios.types import Reference


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
    settings = scenario.settings
    assert (settings.max_new_tokens, settings.stops, settings.temperature) == (1, (), 0.0)
    assert settings.main_metric == "exact_match"


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


def form(instructions):
    return PromptFormat("", "", option_letters=False, instructions=instructions)


def test_a_prompt_loses_its_last_examples_first_and_then_its_own_end():
    shots = ["a" * 1000, "b" * 900, "c" * 200]
    assert fit_prompt(form(""), shots, "q", 2047, Window()) == "\n".join([*shots[:2], "q"])
    assert fit_prompt(form("I"), shots, "q" * 1500, 1648, Window()) == "I\n" + "q" * 1500
    assert fit_prompt(form("I"), shots, "q" * 3000, 1648, Window()) == "I\n" + "q" * 1646


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
