"""Entries without scenario.path: fetched from stand-ins for the hub and GitHub."""

import json
import pickle
from pathlib import Path

import datasets
import pytest
from datasets.arrow_writer import ArrowWriter
from support.hub_stand_in import (
    Hub,
    gsm_table,
    mmlu_source,
    mmlu_table,
    served,
    tiny_mmlu,
    truthful_qa_table,
)
from support.paths import HELM_DATA, needs_shared_data
from support.text_window import Window

from effchal.evaluation.scenarios import hub
from effchal.evaluation.scenarios.entries import load_scenario
from effchal.evaluation.scenarios.types import ScenarioError


@pytest.fixture
def github(tmp_path):
    """A folder, and the address that serves it as <repo>/<commit>/<file>."""
    folder = tmp_path / "github"
    folder.mkdir()
    with served(folder) as address:
        yield folder, address


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache and no GitHub. conftest.py shuts off the hub unless a test has its own."""
    monkeypatch.setattr(hub, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "GITHUB", "http://127.0.0.1:9")
    return hub.CACHE


def load(entry, path=None, max_instances=10_000):
    return load_scenario(entry, path, max_instances, Window())


@pytest.mark.integration
@needs_shared_data
@pytest.mark.parametrize(
    ("entry", "tables"),
    [
        ("mmlu:subject=anatomy", lambda: {"mmlu": (mmlu_source("anatomy"), mmlu_table("anatomy"))}),
        (
            "mmlu:subject=us_foreign_policy",
            lambda: {"m": (mmlu_source(x := "us_foreign_policy"), mmlu_table(x))},
        ),
        ("gsm", lambda: {"gsm": (hub.GSM, gsm_table())}),
        (
            "truthful_qa:task=mc_single",
            lambda: {"truthful_qa": (hub.TRUTHFUL_QA, truthful_qa_table())},
        ),
        ("truthful_qa_mc", lambda: {"truthful_qa": (hub.TRUTHFUL_QA, truthful_qa_table())}),
    ],
)
def test_a_hub_data_set_gives_the_scenario_of_helms_own_files(cache, monkeypatch, entry, tables):
    monkeypatch.setattr(datasets, "load_dataset", Hub(**tables()))
    assert load(entry) == load(entry, HELM_DATA)
    assert load(entry, max_instances=7) == load(entry, HELM_DATA, max_instances=7)
    assert len(datasets.load_dataset.asked) == 1  # the second time it was there


@pytest.mark.integration
@needs_shared_data
@pytest.mark.parametrize(
    ("entry", "file", "source"),
    [
        (
            "bbq:subject=Religion",
            "bbq/data/Religion",
            hub.replace(hub.BBQ, config="data/Religion.jsonl"),
        ),
        (
            "big_bench:task=snarks,subtask=",
            "big_bench/snarks/task.json",
            hub.replace(hub.BIG_BENCH, config="bigbench/benchmark_tasks/snarks/task.json"),
        ),
    ],
)
def test_a_github_file_is_kept_as_it_is(cache, monkeypatch, github, entry, file, source):
    folder, address = github
    monkeypatch.setattr(hub, "GITHUB", address)
    served = folder / source.repo / source.revision / source.config
    served.parent.mkdir(parents=True)
    served.write_bytes((HELM_DATA / file).read_bytes())
    assert load(entry) == load(entry, HELM_DATA)
    assert (cache / file).read_bytes() == served.read_bytes()
    served.unlink()
    assert load(entry) == load(entry, HELM_DATA)


def article(words):
    return " ".join(["word"] * words)


def test_articles_come_from_the_hub_without_those_too_long_for_an_example(cache, monkeypatch):
    pytest.importorskip("rouge_score")
    rows = [
        {"article": article(words), "highlights": f"{words} words .\nIn short .", "id": "0"}
        for words in (60, 600)
    ]
    splits = dict.fromkeys(("train", "validation", "test"), datasets.Dataset.from_list(rows))
    monkeypatch.setattr(
        datasets, "load_dataset", Hub(cnndm=(hub.CNNDM, datasets.DatasetDict(splits)))
    )
    whole = cache.parent / "whole" / "summarization" / "data" / "cnndm.pk"
    whole.parent.mkdir(parents=True)
    whole.write_bytes(pickle.dumps(dict.fromkeys(splits, rows)))
    scenario = load("summarization_cnndm")
    assert scenario == load("summarization_cnndm", cache.parent / "whole")
    assert [instance.id for instance in scenario.instances] == ["id1", "id2", "id3", "id4"]
    kept = pickle.loads((cache / "summarization" / "data" / "cnndm.pk").read_bytes())
    counts = {split: len(rows) for split, rows in kept.items()}
    assert counts == {"train": 1, "validation": 2, "test": 2}


def test_line_ends_quotes_and_empty_choices_survive_and_the_source_stands_beside_the_data(
    cache, monkeypatch
):
    monkeypatch.setattr(datasets, "load_dataset", Hub(mmlu=(mmlu_source("x"), tiny_mmlu())))
    instance = load("mmlu:subject=x").instances[0]
    assert instance.prompt.endswith('Question: Said "a,\nb"?\nA. 1\nB. None\nC. \nD.  4 \nAnswer:')
    about = json.loads((cache / "mmlu" / "data" / "x_source.json").read_text())
    assert about.pop("date").startswith("20")
    assert about == {
        "repo": "cais/mmlu",
        "config": "x",
        "revision": hub.MMLU.revision,
        "files": ["dev/x_dev.csv", "val/x_val.csv", "test/x_test.csv"],
    }


@pytest.mark.parametrize(
    "source", [hub.MMLU, hub.GSM, hub.TRUTHFUL_QA, hub.CNNDM, hub.BBQ, hub.BIG_BENCH]
)
def test_every_source_is_pinned_to_a_commit(source):
    assert len(source.revision) == 40
    int(source.revision, 16)


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        (
            "mmlu:subject=anatomy",
            "cais/mmlu, config anatomy, commit c30699e.* from the Hugging Face hub",
        ),
        ("gsm", "openai/gsm8k, config main"),
        ("truthful_qa:task=mc_single", "truthfulqa/truthful_qa, config generation"),
        ("truthful_qa_mc", "truthfulqa/truthful_qa, config generation"),
        ("summarization_cnndm", "abisee/cnn_dailymail, config 3.0.0"),
        ("bbq:subject=Age", "http://127.0.0.1:9/nyu-mll/BBQ/.*/data/Age.jsonl .*refused"),
        ("bbq:subject=all", "http://127.0.0.1:9/nyu-mll/BBQ/.*/data/Age.jsonl"),
        (
            "big_bench:task=t,subtask=",
            "http://127.0.0.1:9/google/BIG-bench/.*/bigbench/benchmark_tasks/t/task.json",
        ),
        ("big_bench:task=t,subtask=s", "benchmark_tasks/t/s/task.json"),
    ],
)
def test_an_unreachable_source_is_one_error_with_the_remedy_and_leaves_nothing(
    cache, monkeypatch, entry, place
):
    if entry.startswith("summarization"):
        pytest.importorskip("rouge_score")

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub,\nsaid the client")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        ScenarioError, match=rf"{entry}: cannot .*{place}.*give scenario.path=<folder"
    ) as caught:
        load(entry)
    assert "\n" not in str(caught.value)
    assert not cache.exists()


def test_the_real_client_without_a_network_takes_no_other_commit_from_its_cache(
    cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    other = tmp_path / "datasets" / "openai___gsm8k" / "main" / "0.0.0" / ("0" * 40)
    other.mkdir(parents=True)
    with ArrowWriter(path=str(other / "gsm8k-train.arrow")) as writer:
        writer.write({"question": "q", "answer": "a"})
        rows, size = writer.finalize()
    split = {"name": "train", "num_bytes": size, "num_examples": rows, "dataset_name": "gsm8k"}
    info = {"config_name": "main", "dataset_name": "gsm8k", "version": {"version_str": "0.0.0"}}
    features = {name: {"dtype": "string", "_type": "Value"} for name in ("question", "answer")}
    (other / "dataset_info.json").write_text(
        json.dumps({**info, "features": features, "splits": {"train": split}})
    )
    found = datasets.load_dataset(hub.GSM.repo, hub.GSM.config, revision=hub.GSM.revision)
    assert found["train"][0] == {"question": "q", "answer": "a"}  # what it does when left to itself
    with pytest.raises(ScenarioError, match=r"cannot load openai/gsm8k, .* The hub said: \w+: "):
        load("gsm")
    assert not cache.exists()


@pytest.mark.parametrize(("task", "reason"), [("absent", "404"), ("short", "IncompleteRead")])
def test_a_download_that_fails_or_breaks_off_leaves_nothing(
    cache, monkeypatch, github, task, reason
):
    monkeypatch.setattr(hub, "GITHUB", github[1])
    with pytest.raises(
        ScenarioError, match=rf"cannot download http://127.*/{task}/task.json \(.*{reason}"
    ):
        load(f"big_bench:task={task},subtask=")
    assert not cache.exists()


@pytest.mark.parametrize(
    "entry", ["bbq:subject=religion", "summarization_cnndm:temperature=hot", "mmlu:subject=all"]
)
def test_an_argument_that_can_only_be_wrong_is_refused_before_anything_is_fetched(
    cache, monkeypatch, entry
):
    monkeypatch.setattr(datasets, "load_dataset", Hub())
    with pytest.raises(
        ScenarioError, match=r"subject must be|temperature must be|HELM has no subject 'all'"
    ):
        load(entry)
    assert datasets.load_dataset.asked == []


def test_a_data_set_of_another_schema_names_what_it_lacks(cache, monkeypatch):
    table = tiny_mmlu().rename_column("answer", "label")
    monkeypatch.setattr(datasets, "load_dataset", Hub(mmlu=(mmlu_source("x"), table)))
    with pytest.raises(
        ScenarioError, match=r"cais/mmlu, config x, .*split dev, has no column answer"
    ):
        load("mmlu:subject=x")
    del table["dev"]
    with pytest.raises(ScenarioError, match="has no split 'dev', only validation, test"):
        load("mmlu:subject=x")
    assert not cache.exists()


@pytest.mark.parametrize("survives", [0, 1, 2, 3])
def test_what_a_killed_process_left_is_fetched_again(cache, monkeypatch, survives):
    """Killed as it renames: after so many files, its temporary folder left behind."""
    monkeypatch.setattr(datasets, "load_dataset", Hub(mmlu=(mmlu_source("x"), tiny_mmlu())))
    whole = load("mmlu:subject=x")
    data = cache / "mmlu" / "data"
    written = ["dev/x_dev.csv", "val/x_val.csv", "test/x_test.csv", "x_source.json"]
    for name in written[survives:]:
        (data / name).unlink()
    (data / ".fetched-1234").mkdir()
    (data / ".fetched-1234" / "part").write_text("half")
    if survives:  # even a file cut short by hand, as long as the record is missing
        (data / written[0]).write_text('"half')
    assert load("mmlu:subject=x") == whole
    assert len(datasets.load_dataset.asked) == 2


def test_a_failing_disk_leaves_no_half_file(cache, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", Hub(mmlu=(mmlu_source("x"), tiny_mmlu())))
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        with pytest.raises(
            ScenarioError, match=rf"cannot write {cache}/mmlu/data .*No space left.*XDG_CACHE_HOME"
        ):
            load("mmlu:subject=x")
    assert not [path for path in cache.rglob("*") if path.is_file()]
    load("mmlu:subject=x")


def test_data_of_another_commit_are_fetched_again(cache, monkeypatch):
    old, new = mmlu_source("x"), hub.replace(mmlu_source("x"), revision="0" * 40)
    monkeypatch.setattr(
        datasets, "load_dataset", Hub(old=(old, tiny_mmlu()), new=(new, tiny_mmlu()))
    )
    load("mmlu:subject=x")
    monkeypatch.setattr(hub, "MMLU", new)
    load("mmlu:subject=x")
    load("mmlu:subject=x")
    assert len(datasets.load_dataset.asked) == 2
