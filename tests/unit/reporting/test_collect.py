"""Run folders of every condition are found, and told apart."""

import json
import os

import pytest

from effchal.config import ConfigError
from effchal.reporting.collect import collect, number, what_differs


def make_run(folder, status="finished", **config):
    folder.mkdir(parents=True)
    lines = "".join(f"{key}: {value}\n" for key, value in config.items())
    (folder / "config.yaml").write_text(lines or "name: a\n")
    (folder / "run.json").write_text(json.dumps({"status": status, "step": 3}))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    return folder


def test_runs_and_jobs_of_sweeps_are_found(tmp_path):
    make_run(tmp_path / "train" / "one")
    for job in "01":
        make_run(tmp_path / "train" / "sweep" / job)
    (tmp_path / "train" / "sweep" / "multirun.yaml").touch()
    found = collect([tmp_path, tmp_path / "train" / "one"])
    assert [run.name for run in found.runs] == ["one", "sweep/0", "sweep/1"]
    assert [run.status for run in found.runs] == ["finished"] * 3
    assert found.runs[0].metrics == [{"step": 1, "loss": 2.0}]  # without what a kill cut
    assert not found.others
    assert not found.damaged


def test_folders_that_are_no_runs_are_named_with_the_reason(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign" / "deep").mkdir(parents=True)
    (tmp_path / "foreign" / "deep" / "a.txt").touch()
    bundle = tmp_path / "bundle"
    make_run(tmp_path / "run")
    bundle.mkdir()
    for name in ("manifest.json", "config.yaml"):
        (bundle / name).touch()
    reasons = {each.folder.name: each.reason for each in collect([tmp_path]).others}
    assert reasons == {
        "empty": "empty",
        "foreign": "no run; it holds deep",
        "bundle": "a bundle; its run is the folder that it lies in",
    }


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\x00"])
def test_a_damaged_file_is_named_and_the_rest_is_read(tmp_path, text):
    run = make_run(tmp_path / "run", lr=1)
    (run / "run.json").write_text(text)
    found = collect([tmp_path])
    assert [each.folder for each in found.damaged] == [run]
    assert "run.json" in found.damaged[0].reason
    assert found.runs[0].config == {"lr": 1}
    assert found.runs[0].status == "no record"


def test_a_run_without_a_record_is_running_while_its_process_lives(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "run.json").unlink()
    assert collect([run]).runs[0].status == "no record"
    (run / ".lock").write_text(f"{os.getpid()}\n")
    assert collect([run]).runs[0].status == "running"
    os.utime(run / ".lock", (0, 0))  # an older process had this number
    assert collect([run]).runs[0].status == "no record"


def test_a_helm_run_and_an_evaluation_are_known_while_they_run(tmp_path):
    for name, mark in (("helm", "prepared.json"), ("evaluate", "results.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / mark).write_text('{"status": "running"}')
        (tmp_path / name / ".lock").write_text(f"{os.getpid()}\n")
    found = collect([tmp_path])
    assert [(run.kind, run.status) for run in found.runs] == [
        ("evaluate", "running"),
        ("helm", "running"),
    ]
    assert not found.others
    assert not found.damaged


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        collect([tmp_path / "missing"])


def test_configs_differ_by_key(tmp_path):
    for name, r in (("a", 4), ("b", 8)):
        make_run(tmp_path / name, lr=1, r=r)
    assert what_differs(collect([tmp_path]).runs) == {"r": [4, 8]}


def test_numbers_that_are_not_there_are_none():
    record = {"a": {"b": 1}, "t": True, "n": float("nan"), "s": "1"}
    assert number(record, "a", "b") == 1
    assert [number(record, *keys) for keys in (("a",), ("a", "c"), ("t",), ("n",), ("s",))] == [
        None
    ] * 5
