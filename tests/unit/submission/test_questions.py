"""The questions and the training data that a hand-in takes along."""

import dataclasses
import json

import pytest
from support.configs import compose_config

from effchal.config import ConfigError, DataSourceConfig
from effchal.submission.hand_in import served_decoding
from effchal.submission.included import check_included, included_data
from effchal.submission.questions import paths_of, take_questions


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "handed in"
    (folder / "evaluation").mkdir(parents=True)
    return folder


def asked(tmp_path, **more):
    """A config with a file of questions of one's own and a grader."""
    for name in ("mine.jsonl", "grade.py"):
        (tmp_path / name).write_text(name)
    cfg = compose_config(["model=tiny", "scenario=multiple_choice", "scenario.max_instances=7"])
    cfg.scenario.data = [str(tmp_path / "mine.jsonl")]
    cfg.evaluate.grader = f"{tmp_path / 'grade.py'}:by_length"
    for key, value in more.items():
        setattr(cfg.scenario, key, value)
    return cfg


def test_words_say_all_that_was_asked(tmp_path, folder):
    cfg = asked(tmp_path)
    found = take_questions(cfg, folder)
    words = found.overrides(["base_model=x"])
    again = compose_config(["model=tiny", *words])
    assert again.scenario.entries == cfg.scenario.entries
    assert again.scenario.max_instances == 7
    assert again.scenario.data == ["evaluation/questions/mine.jsonl"]
    assert again.evaluate.grader == "evaluation/grader.py:by_length"
    assert again.base_model == "x"
    assert (folder / "evaluation/questions/mine.jsonl").read_text() == "mine.jsonl"
    assert (folder / "evaluation/grader.py").read_text() == "grade.py"
    assert str(tmp_path) not in json.dumps(dataclasses.asdict(found))


def test_a_folder_of_data_must_be_typed_again(tmp_path, folder):
    cfg = asked(tmp_path, path="data")
    found = take_questions(cfg, folder)
    assert f"scenario.path='{tmp_path.cwd() / 'data'}'" in paths_of(cfg)
    with pytest.raises(ConfigError, match=r"give scenario\.path=<folder>"):
        found.overrides([])
    found.overrides(["scenario.path=elsewhere"])


@pytest.mark.parametrize(
    ("data", "message"),
    [(["nowhere.jsonl"], "is no file"), (["a/mine.jsonl", "b/mine.jsonl"], "have one name")],
)
def test_questions_that_cannot_be_taken_along(tmp_path, folder, data, message):
    for path in ("a", "b"):
        (tmp_path / path).mkdir()
        (tmp_path / path / "mine.jsonl").write_text("{}")
    cfg = asked(tmp_path, data=[str(tmp_path / name) for name in data])
    with pytest.raises(ConfigError, match=message):
        take_questions(cfg, folder)


def test_training_data_is_copied_where_it_is_wanted(tmp_path, folder):
    (tmp_path / "shards").mkdir()
    for name in ("one.jsonl", "shards/a.jsonl", "shards/b.jsonl"):
        (tmp_path / name).write_text(name)
    cfg = compose_config(["model=tiny", "data_mix=quickstart", "submit.include_data=true"])
    for name in ("one.jsonl", "shards"):
        cfg.data_mix.sources[name[:3]] = DataSourceConfig(path=str(tmp_path / name))
    check_included(cfg)
    assert included_data(folder, cfg) == {"one": "data/one/one.jsonl", "sha": "data/sha/shards"}
    assert (folder / "data/sha/shards/b.jsonl").read_text() == "shards/b.jsonl"
    cfg.data_mix.sources["pattern"] = DataSourceConfig(path=str(tmp_path / "shards" / "*.jsonl"))
    with pytest.raises(ConfigError, match=r"data_mix\.sources\.pattern\.path=.* neither a file"):
        check_included(cfg)


def test_the_decoding_of_the_server_is_the_last_of_an_evaluation():
    words = ["model=tiny", "lora=none", "decoding=dola_low", "decoding.repetition_penalty=1.2"]
    assert served_decoding(compose_config(words)) == "dola low, penalty 1.2"
    swept = compose_config([*words, "sweep.premature_layers=[[0],[1]]"])
    assert served_decoding(swept) == "dola low, penalty 1.2"
    assert served_decoding(compose_config(["model=tiny", "lora=none"])) == "greedy"
