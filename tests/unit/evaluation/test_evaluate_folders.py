"""Where an evaluation keeps its results: what it survives, and what may move meanwhile."""

import json
import shutil
from datetime import datetime

import pytest
from support.own_questions import evaluation_config, read_records

from effchal import api
from effchal.bundle import write_bundle
from effchal.config import ConfigError, load_config
from effchal.evaluation import run as evaluation
from effchal.evaluation.run import run
from effchal.model.tiny import tiny_folder
from effchal.model.tokenizer import load_tokenizer
from effchal.runs import run_lock

pytestmark = pytest.mark.integration


def results(folder):
    return json.loads((folder / "results.json").read_text())


class Noon:
    """A clock that stands."""

    @staticmethod
    def now():
        return datetime(2026, 1, 1, 12)


def test_two_evaluations_in_one_second_keep_both_results(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "datetime", Noon)
    cfg = evaluation_config(data[1:])
    both = [api.evaluate(cfg), api.evaluate(cfg)]
    assert both[0].folder != both[1].folder
    assert [results(each.folder)["status"] for each in both] == ["finished"] * 2
    assert len(list((tmp_path / "outputs" / "evaluate").iterdir())) == 2


def test_a_folder_that_another_process_works_in_is_refused(data, tmp_path):
    with run_lock(tmp_path / "out"), pytest.raises(ConfigError, match="is in use by process"):
        run(evaluation_config(data[1:]), tmp_path / "out")


def test_figures_and_tables_that_cannot_be_written_cost_no_result(
    data, tmp_path, monkeypatch, caplog
):
    def fail(entries, run_dir, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation, "plot", fail)
    monkeypatch.setattr(evaluation, "write_tables", fail)
    assert "| mc3 | greedy |" in run(evaluation_config(data[1:]), tmp_path / "out")
    assert results(tmp_path / "out")["status"] == "finished"
    for what in ("tables", "figures"):
        assert f"no {what} ([Errno 28] No space left on device)" in caplog.text


def test_records_that_are_damaged_are_answered_again(data, tmp_path):
    cfg = evaluation_config(data[1:])
    run(cfg, tmp_path)
    whole = read_records(tmp_path)
    damaged = ["5", "{}", json.dumps(whole[0] | {"decodings": {"greedy": {"text": 1}}}), "\x00"]
    lines = [json.dumps(record) for record in whole[2:]]
    (tmp_path / "instances.jsonl").write_text("\n".join([*damaged, *lines]) + "\n")
    run(cfg, tmp_path)
    good = [record for record in read_records(tmp_path) if record in whole]
    assert len(good) == len(whole)


def test_damaged_results_are_one_line(data, tmp_path):
    cfg = evaluation_config(data[1:])
    run(cfg, tmp_path)
    (tmp_path / "results.json").write_text('{"model": ')
    with pytest.raises(ConfigError, match=r"results.json is damaged; take another folder$"):
        run(cfg, tmp_path)


def test_bundle_and_base_model_may_move_meanwhile(data, tmp_path):
    base = shutil.copytree(tiny_folder(), tmp_path / "base")
    cfg = evaluation_config(data[1:], f"model.name={base}")
    write_bundle(tmp_path / "bundle", cfg, None, load_tokenizer(cfg.model))
    cfg.bundle = str(tmp_path / "bundle")
    run(cfg, tmp_path / "out")
    (tmp_path / "bundle").rename(tmp_path / "moved")
    base.rename(tmp_path / "new base")
    cfg.bundle, cfg.base_model = str(tmp_path / "moved"), str(tmp_path / "new base")
    run(cfg, tmp_path / "out")
    assert load_config(tmp_path / "out" / "config.yaml").base_model == cfg.base_model


def test_a_base_model_without_a_bundle_may_move_meanwhile(data, tmp_path):
    base = shutil.copytree(tiny_folder(), tmp_path / "base")
    cfg = evaluation_config(data[1:], f"model.name={base}")
    run(cfg, tmp_path / "out")
    base.rename(tmp_path / "new")
    cfg.base_model = str(tmp_path / "new")
    run(cfg, tmp_path / "out")
    assert results(tmp_path / "out")["status"] == "finished"
