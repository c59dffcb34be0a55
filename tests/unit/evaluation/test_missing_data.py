"""Entries without data: all told at once, or left out and named."""

import json

import pytest
from support.configs import compose_config
from support.contest_data import made_up_mmlu

from effchal.config import ConfigError, ScenarioConfig
from effchal.evaluation.helm.run import check_prepared, left_out, mark_missing
from effchal.evaluation.run import run

ENTRIES = ["mmlu:subject=made_up", "gsm", "big_bench:max_train_instances=all,task=t,subtask="]


def evaluation(folder, *typed):
    made_up_mmlu(folder)
    entries = ",".join(f"'{entry}'" for entry in ENTRIES)
    words = ["model=tiny", "prompt=plain", "lora=none", "scenario.max_instances=2"]
    return compose_config(
        [*words, f"scenario.entries=[{entries}]", f"scenario.path={folder}", *typed]
    )


def test_all_missing_entries_are_told_before_a_model_is_loaded(tmp_path):
    with pytest.raises(ConfigError) as caught:
        run(evaluation(tmp_path / "data"), tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0] == "no data for 2 of 3 entries:"
    assert f"gsm: no file {tmp_path}/data/gsm/gsm_data_train, {tmp_path}/data/gsm/gsm_d" in lines[1]
    assert f"{tmp_path}/data/big_bench/t/task.json" in lines[2]
    assert sum("give scenario.path" in line for line in lines) == 1
    assert lines[-1].strip().startswith("scenario.skip_missing=true goes on without them")
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_what_is_left_out_is_named_in_every_result(tmp_path):
    cfg = evaluation(tmp_path / "data", "scenario.skip_missing=true")
    table = run(cfg, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["entries"]) == ENTRIES[:1]
    assert list(results["missing"]) == ENTRIES[1:]
    for text in (table, (tmp_path / "out" / "results.md").read_text()):
        assert "Left out for want of data: 2" in text
        assert f"- gsm: no file {tmp_path}/data/gsm/gsm_data_train" in text


def test_nothing_to_score_is_an_error_also_where_data_may_be_missing(tmp_path):
    cfg = evaluation(tmp_path / "data", "scenario.skip_missing=true")
    cfg.scenario.entries = ["gsm"]
    with pytest.raises(ConfigError, match="gsm: no file"):
        run(cfg, tmp_path / "out")


def helm_config(*, skips):
    cfg = compose_config(["model=tiny"])
    cfg.scenario = ScenarioConfig(entries=["a", "b"], skip_missing=skips)
    return cfg


PREPARED = [
    {"entry": "gsm", "runs": ["gsm:"]},
    {"entry": "mmlu:subject=x", "error": "FileNotFoundError: no x.csv", "missing": True},
    {"entry": "sam_sum", "error": "UnknownEntry: HELM knows no entry 'sam_sum'", "missing": True},
]


def test_helm_goes_on_without_what_it_lacks_only_if_it_may():
    with pytest.raises(ConfigError, match=r"no x\.csv\n.*sam_sum.*\n.*skip_missing=true goes on"):
        check_prepared(helm_config(skips=False), PREPARED)
    check_prepared(helm_config(skips=True), PREPARED)
    assert list(left_out(PREPARED)["missing"]) == ["mmlu:subject=x", "sam_sum"]
    assert left_out(PREPARED[:1]) == {}


def test_a_file_that_helm_passes_over_is_missing_data(tmp_path):
    made_up_mmlu(tmp_path)
    (tmp_path / "mmlu/data/test/made_up_test.csv").unlink()
    cfg = helm_config(skips=False)
    cfg.scenario.path = str(tmp_path)
    names = ("mmlu:subject=made_up", "simple_mcqa", "math:subject=algebra,level=1")
    prepared = [{"entry": name, "runs": ["a run"]} for name in names]
    mark_missing(cfg, prepared)
    assert prepared[0]["error"] == "scenario.path has no mmlu/data/test/made_up_test.csv"
    assert all("error" not in each for each in prepared[1:])
    with pytest.raises(ConfigError, match="made_up_test"):
        check_prepared(cfg, prepared)


@pytest.mark.parametrize(
    "wrong",
    [
        {"entry": "gms", "error": "UnknownEntry: HELM knows no entry 'gms'", "missing": True},
        {"entry": "gsm:x=1", "error": "TypeError: unexpected argument 'x'", "missing": False},
    ],
)
def test_a_mistyped_entry_is_refused_also_where_data_may_be_missing(wrong):
    with pytest.raises(ConfigError, match=wrong["error"].partition(" (")[0][:20]):
        check_prepared(helm_config(skips=True), [*PREPARED, wrong])
