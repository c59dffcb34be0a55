"""The end of a sweep over models, and answers that are taken from an earlier evaluation."""

import json

import pytest
from support.evaluations import write_evaluation
from support.own_questions import evaluation_config

from effchal.cli import compose_config
from effchal.config import save_config
from effchal.evaluation.run import run
from effchal.evaluation.sweep import compare_models


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Finished evaluations of three models."""
    monkeypatch.chdir(tmp_path)
    return [job(tmp_path / str(number), digest=f"model {number}") for number in range(3)]


def job(folder, **options):
    write_evaluation(folder, {"gsm": [1.0, 0.0] * 10}, **options)
    save_config(compose_config(["model=tiny", "evaluate.confidence=0.9"]), folder / "config.yaml")
    return folder


def models(folder):
    return json.loads((folder / "comparison.json").read_text())["models"]


def test_a_sweep_over_models_is_compared_with_the_first_and_kept(sweep, tmp_path):
    text = compare_models(sweep)
    assert "90 % interval" in text  # the confidence of the evaluations
    assert text.endswith("kept in .; again, or otherwise: effchal compare .\n")
    assert list(models(tmp_path)) == ["A", "B", "C"]
    assert (tmp_path / "comparison.md").read_text().startswith("# Comparison")
    assert (tmp_path / "comparison.png").stat().st_size > 5000


def test_a_model_that_failed_or_is_gone_leaves_the_others(sweep, tmp_path, caplog):
    (sweep[0] / "results.json").unlink()
    compare_models([*sweep, tmp_path / "gone"])
    assert [each["folder"] for each in models(tmp_path).values()] == list(map(str, sweep[1:]))
    assert f"{sweep[0]} failed; the others are compared with {sweep[1]}" in caplog.text
    results = json.loads((sweep[1] / "results.json").read_text())
    (sweep[1] / "results.json").write_text(json.dumps(results | {"status": "running"}))
    assert compare_models(sweep) == ""  # one is left


def test_a_sweep_over_something_else_is_not_compared(sweep, tmp_path):
    assert compare_models([*sweep, job(tmp_path / "3", digest="model 1")]) == ""
    assert not (tmp_path / "comparison.json").exists()


@pytest.mark.integration
def test_answers_are_taken_only_where_the_same_was_asked(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "outputs" / "evaluate"

    def answers_from(name, *overrides):
        run(evaluation_config(data, *overrides), out / name)
        return json.loads((out / name / "results.json").read_text()).get("answers_from")

    assert answers_from("first", "evaluate.reuse=true") is None
    assert answers_from("asked again") is None
    assert answers_from("taken", "evaluate.reuse=true", "evaluate.resamples=100") == (
        "outputs/evaluate/asked again"
    )
    texts = [(out / name / "instances.jsonl").read_text() for name in ("asked again", "taken")]
    assert texts[0] == texts[1]
    assert answers_from("other template", "evaluate.reuse=true", "prompt=chatml") is None
    assert answers_from("fewer", "evaluate.reuse=true", "scenario.max_instances=3") is None
    data[0].write_text(data[0].read_text().replace("What is 3?", "What is three?"))
    assert answers_from("changed", "evaluate.reuse=true") is None
