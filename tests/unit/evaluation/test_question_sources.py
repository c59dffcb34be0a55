"""Questions of one's own in a folder, by a pattern and on the hub."""

import json
from typing import ClassVar

import datasets
import pytest
from support.configs import compose_config

from effchal.evaluation.questions.files import own_files

ANSWERED = {"prompt": "p", "answers": ["a"]}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_folder_and_a_pattern_are_one_entry_each(tmp_path):
    (tmp_path / "folder" / "more").mkdir(parents=True)
    row = json.dumps(ANSWERED) + "\n"
    for name in ("b_test.jsonl", "a_train.jsonl", "more/c.jsonl"):
        (tmp_path / "folder" / name).write_text(row)
    found = own_files(compose_config(["scenario.data=[folder,'folder/*.jsonl']"]))
    assert [(each.entry, len(each.instances)) for each in found.scenarios] == [
        ("folder", 2),  # without the file of another split
        ("*.jsonl", 2),
    ]
    of_folder = found.record["data"]["folder"]
    assert of_folder["source"] == "folder"
    assert list(of_folder["files"]) == ["folder/b_test.jsonl", "folder/more/c.jsonl"]
    assert [each.id for each in found.scenarios[0].instances] == ["row1", "row2"]


def test_a_data_set_of_the_hub_is_read_at_its_commit(tmp_path, monkeypatch):
    asked = {}

    class Table:
        cache_files: ClassVar = [{"filename": str(tmp_path / "rows.jsonl")}]

    def load_dataset(path, name, **options):
        asked.update(options, path=path, name=name)
        return Table

    (tmp_path / "rows.jsonl").write_text(json.dumps(ANSWERED) + "\n")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    keys = ["scenario.subset=main", f"scenario.revision={'a' * 40}"]
    found = own_files(compose_config(["scenario.data=[some/set]", *keys]))
    assert (asked["path"], asked["name"], asked["split"]) == ("some/set", "main", "test")
    assert found.record["data"]["set"]["revision"] == asked["revision"] == "a" * 40
    assert len(found.scenarios[0].instances) == 1
