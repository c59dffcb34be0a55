"""What `effchal evaluate` takes beside keys: data=, grader=, bundle=[a,b] and baseline=true."""

import pytest
from omegaconf import OmegaConf
from support.evaluations import write_bundle_files

from effchal.cli.arguments import hydra_arguments, parse_override
from effchal.cli.compose import compose_config
from effchal.cli.evaluate_arguments import models_as_words, question_words
from effchal.config import ConfigError
from effchal.evaluation.helm.run import check

ODD = ["q.jsonl", "a b.jsonl", "a=b.jsonl", "a,b.jsonl", 'it\'s "q".jsonl', "[x].jsonl", "${y}.csv"]


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ODD:
        (tmp_path / name).touch()


def composed(*typed):
    return compose_config(hydra_arguments("evaluate", list(typed)))


@pytest.mark.parametrize("name", ODD)
def test_a_file_is_named_as_it_is_typed(name, tmp_path):
    scenario = composed(f"data={name}").scenario
    assert (scenario.data, scenario.entries) == ([name], [])
    for path in (name, f"./{name}", str(tmp_path / name)):
        read = map(parse_override, hydra_arguments("evaluate", [f"data={path}"]))
        values = OmegaConf.create({each.key_or_group: each.value() for each in read})
        assert OmegaConf.to_container(values, resolve=True) == {
            "scenario.data": [path],
            "scenario.entries": [],
        }


def test_several_files_are_a_list():
    assert composed("data=[q.jsonl, a b.jsonl,a=b.jsonl]").scenario.data == [
        "q.jsonl",
        "a b.jsonl",
        "a=b.jsonl",
    ]
    assert composed("data=[q.jsonl,a,b.jsonl]").scenario.data == ["q.jsonl", "a,b.jsonl"]
    assert composed("data=[gone.jsonl,'x, y.csv']").scenario.data == ["gone.jsonl", "x, y.csv"]


def test_entries_that_are_typed_stay_beside_the_files():
    both = composed("data=q.jsonl", "scenario.entries=[gsm]").scenario
    assert (both.data, both.entries) == (["q.jsonl"], ["gsm"])
    assert composed("data=q.jsonl", "scenario=multiple_choice").scenario.entries
    assert "scenario.entries=[]" not in question_words(["resume_from=x", "data=q.jsonl"])


def test_a_limit_that_is_typed_is_one_of_the_files_too():
    assert composed("data=q.jsonl").scenario.max_rows is None
    assert composed("data=q.jsonl", "scenario.max_instances=3").scenario.max_rows == 3


def test_a_grader_is_spelt_short_or_long():
    assert composed("grader=my dir/g.py:grade").evaluate.grader == "my dir/g.py:grade"
    assert composed("evaluate.grader=g.py:grade").evaluate.grader == "g.py:grade"


@pytest.mark.parametrize("command", ["helm", "serve"])
def test_a_command_without_questions_refuses_them(command):
    with pytest.raises(ConfigError, match=rf"effchal {command} takes no data: .*effchal evaluate"):
        hydra_arguments(command, ["data=q.jsonl"])


def test_helm_refuses_the_files_of_a_config():
    with pytest.raises(ConfigError, match=r"scenario\.data: HELM asks its own entries alone"):
        check(compose_config(["model=tiny", "lora=none", "scenario.data=[q.jsonl]"]))


def test_a_file_without_its_key_says_which_key():
    with pytest.raises(ConfigError, match=r"q\.jsonl is a file; .* give data=q\.jsonl"):
        hydra_arguments("evaluate", ["q.jsonl"])


def test_the_old_entry_typed_without_quotes_says_what_to_type():
    with pytest.raises(ConfigError, match="for questions of your own type data=<file>"):
        hydra_arguments("evaluate", ["scenario.entries=[jsonl:path=q.jsonl]"])
    old = composed("scenario.entries=['jsonl:path=q.jsonl']").scenario
    assert (old.entries, old.data) == (["jsonl:path=q.jsonl"], [])


def test_data_of_training_stays_what_it_was():
    assert hydra_arguments("train", ["data=q.jsonl"]) == ["data=q.jsonl", "data_mix=own"]


def test_bundles_of_a_list_and_a_baseline_are_models(tmp_path):
    for name in ("one", "two"):
        write_bundle_files(tmp_path / name / "bundle")
    assert models_as_words(["bundle=[one,two]", "name=x"]) == ["one", "two", "name=x"]
    expected = hydra_arguments("evaluate", ["base", "one", "two"])
    assert hydra_arguments("evaluate", ["bundle=[one,two]", "baseline=true"]) == expected
    assert hydra_arguments("evaluate", ["one", "two", "baseline=true"]) == expected
    assert hydra_arguments("evaluate", ["base", "one", "two", "baseline=True"]) == expected
    alone = hydra_arguments("evaluate", ["bundle=one", "baseline=true"])
    assert alone == hydra_arguments("evaluate", ["base", "one"])
    assert hydra_arguments("evaluate", ["one", "baseline=false"]) == ["bundle='one'"]
    assert hydra_arguments("evaluate", ["bundle=[one]"]) == ["bundle='one'"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["baseline=maybe"], "baseline must be true or false, got 'maybe'"),
        (["baseline=true"], "base of which run"),
        (["bundle=[one,gone]"], "no folder gone"),
    ],
)
def test_models_that_are_none_are_refused(words, message, tmp_path):
    write_bundle_files(tmp_path / "one" / "bundle")
    with pytest.raises(ConfigError, match=message):
        hydra_arguments("evaluate", words)
