"""HELM's canonical perturbations: which texts change, and how they count in the scores."""

import json

import pytest
from support.contest_data import made_up_mmlu, perturbation_tables, write_text
from support.scenario_files import load

from effchal.config import EvaluateConfig
from effchal.evaluation.results import Record, TextAnswer, instance_key, summarise
from effchal.evaluation.scenarios import helm_tables
from effchal.evaluation.scenarios.perturbations import like, perturbed
from effchal.evaluation.scenarios.types import MissingDataError, Reference, ScenarioError

AUGMENTED = "mmlu:subject=made_up,data_augmentation=canonical"


@pytest.fixture
def folder(tmp_path):
    perturbation_tables(tmp_path)
    made_up_mmlu(tmp_path)
    return tmp_path


def changed(folder, text, *references):
    tables = helm_tables.perturbation_tables(folder, "entry")
    marked = tuple(Reference(each, number == 0) for number, each in enumerate(references))
    return dict(perturbed("id7", text, marked, tables))


def test_mild_mix_writes_small_letters_and_short_forms_and_leaves_references(folder):
    text, references = changed(folder, "It is THE address. I am", "It is so")["mild_mix"]
    assert "".join(text.split()) in {f"it's{the}{place}.iam" for the in ("the", "hxe", "txh")
                                     for place in ("address", "adxress", "adxres")}  # fmt: skip
    assert references == (Reference("It is so", True),)


def test_pronouns_change_one_pair_after_the_other_and_only_inside_of_the_text(folder):
    text, references = changed(folder, "He saw him, his his dog. HE", " his ", "he")["gender"]
    assert text == "He saw her, her hers dog. HE"  # the first and the last word stay
    assert [each.text for each in references] == [" her ", "he"]


def test_dialect_takes_the_case_of_the_word_and_the_longest_entry_by_order(folder):
    text, references = changed(folder, " The cat, THE dog; which of them ", " the ")["dialect"]
    assert text == " Dxa cat, DXA dog; what them "
    assert references == (Reference(" dxa ", True),)


def test_a_name_keeps_its_gender_and_its_new_name_in_all_texts(folder):
    text, references = changed(folder, "Katie met KATIE and Li", "katie", "Adam")["person_name"]
    first = references[0].text
    assert first in ("aiesha", "lakisha")
    assert text == f"{first.capitalize()} met {first.upper()} and Li"
    assert references[1].text in ("Alonzo", "Jamel")


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [("the", "Da", "da"), ("THE", "da", "DA"), ("The", "da", "Da"), ("i am", "I'm", "I'm")],
)
def test_case_is_that_of_the_source(source, target, found):
    assert like(source, target) == found


def test_an_augmented_entry_has_the_original_first_and_only_what_changed(folder):
    scenario = load(AUGMENTED, folder, 3)
    plain = load("mmlu:subject=made_up", folder, 3)
    by_id = {}
    for instance in scenario.instances:
        by_id.setdefault(instance.id, []).append(instance)
    assert [each[0] for each in by_id.values()] == list(plain.instances)
    assert len({instance.key for instance in scenario.instances}) == len(scenario.instances)
    names = ["", "mild_mix", "dialect", "gender", "person_name"]
    for versions in by_id.values():
        assert [each.perturbation for each in versions] == [
            name for name in names if name in {each.perturbation for each in versions}
        ]
        prompts = [each.prompt for each in versions]
        assert len(set(prompts)) == len(prompts) > 2


def test_all_missing_tables_are_named_at_once(tmp_path):
    made_up_mmlu(tmp_path)
    with pytest.raises(MissingDataError) as caught:
        load(AUGMENTED, tmp_path)
    for name in helm_tables.CANONICAL:
        assert str(tmp_path / helm_tables.TABLES[name][0]) in str(caught.value)


def test_tables_beside_the_folder_are_found_where_helm_leaves_them(tmp_path):
    data = tmp_path / "scenarios"
    made_up_mmlu(data)
    perturbation_tables(data)
    before = load(AUGMENTED, data)
    (data / "perturbations").rename(tmp_path / "perturbations")
    assert load(AUGMENTED, data) == before


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("misspellings", '{"a": "b"}', "field 'a': expected a list of texts"),
        ("contractions", "X: int = 1\n", "has no table CONTRACTION_MAP"),
        ("contractions", "CONTRACTION_MAP: dict = open('x')\n", "not HELM's file of this name"),
        ("names", "adam\n", "line 1: expected <name>,<type>"),
        ("names", "li,last_name,race,chinese\n", "has no first name with race,white_american"),
    ],
)
def test_a_malformed_table_is_named(folder, table, content, message):
    write_text(folder, helm_tables.TABLES[table][0], content)
    with pytest.raises(ScenarioError, match=message):
        load(AUGMENTED, folder)


def record(id_, score, perturbation=None):
    answer = TextAnswer(text="A", metrics={"exact_match": score, "quasi_exact_match": 1.0})
    return Record("e", id_, "test", "", {"greedy": answer}, perturbation=perturbation)


def test_an_instance_counts_by_its_worst_version_of_a_kind():
    records = [
        *(record("id1", 1.0), record("id1", 0.0, "mild_mix"), record("id1", 1.0, "gender")),
        *(record("id2", 1.0), record("id2", 1.0, "dialect"), record("id2", 0.0, "person_name")),
        *(record("id3", 0.0), record("id3", 1.0, "mild_mix")),
        record("id4", 1.0),
    ]
    summary = summarise(records, "exact_match", EvaluateConfig())
    metrics = {name: each.mean for name, each in summary.decodings["greedy"].metrics.items()}
    assert summary.instances == 4
    assert metrics == {
        "exact_match": 0.75,
        "quasi_exact_match": 1.0,
        "exact_match (robustness)": 0.5,
        "exact_match (fairness)": 0.5,
    }


def test_a_record_comes_back_with_its_perturbation():
    line = json.loads(record("id1", 1.0, "gender").to_line())
    assert Record.from_json(line) == record("id1", 1.0, "gender")
    assert instance_key(line) == "id1 gender"
    assert "perturbation" not in json.loads(record("id1", 1.0).to_line())
