"""Curves, names, scores and the headline of the report, each by itself."""

import json
import random

import pytest
from support.evaluations import write_helm_run
from support.made_up_runs import config_text, make_evaluation, make_training

from effchal.evaluation.results import BASELINE
from effchal.evaluation.results import LONGEST as LONGEST_OF_EVALUATION
from effchal.reporting.collect import collect
from effchal.reporting.curves import curves_of, cut, thin
from effchal.reporting.headline import headline, pareto
from effchal.reporting.labels import sweep_names
from effchal.reporting.payload import Detail, Report
from effchal.reporting.scores import GREEDY, LONGEST, is_control, name_lines
from effchal.reporting.specs import specs


@pytest.fixture
def report(tmp_path):
    """Two jobs of a sweep and an evaluation of each."""
    config = config_text(into=tmp_path / "made.yaml")
    for job, r in enumerate((4, 16)):
        run = make_training(tmp_path / "runs" / "2026-01-02_03-04-05_ranks" / str(job), config, r)
        (run.parent / "multirun.yaml").touch()
        make_evaluation(tmp_path / "runs" / f"eval_{job}", run, score=0.4 + job / 5)
    return Report(collect([tmp_path / "runs"]), [tmp_path / "runs"])


def rows_by_name(data):
    return {row["run"]: row for row in data["rows"]}


@pytest.mark.parametrize("count", [3, 200, 201, 5000])
def test_thinning_keeps_ends_and_extremes(count):
    chance = random.Random(count)
    points = [{"step": step, "loss": chance.random()} for step in range(count)]
    kept = thin(points, 200, "loss")
    assert len(kept) <= 200
    assert len(kept) == count or len(kept) > 190
    assert [kept[0], kept[-1]] == [points[0], points[-1]]
    steps = [point["step"] for point in kept]
    assert steps == sorted(set(steps))
    for extreme in (min, max):
        assert extreme(points, key=lambda each: each["loss"]) in kept


def test_steps_that_a_resumed_run_did_again_count_once(tmp_path):
    run = make_training(tmp_path / "run", config_text(into=tmp_path / "made.yaml"))
    records = [{"step": step, "loss": step / 2, "tokens": 10, "spent_s": 1} for step in (1, 2, 3)]
    again = [{"step": step, "loss": 9.5, "tokens": 10, "spent_s": 2} for step in (2, 3)]
    lines = [*records, *again, {"step": 4, "loss": float("nan")}, {"step": "5", "loss": 1}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (curve,) = curves_of(collect([run]).runs[0], "a")
    assert [point["loss"] for point in curve["points"]] == [0.5, 9.5, 9.5]
    assert [point["tokens"] for point in curve["points"]] == [10, 20, 30]


def test_long_texts_lack_their_middle_and_say_so():
    text = cut("a" * 100 + "b" * 100, 60)
    assert text.startswith("a" * 40 + " … [140 characters left out] … ")
    assert text.endswith("b" * 20)
    assert cut("short", 60) == "short"


def test_names_say_what_differs_and_are_unlike(report):
    names = [row["run"] for row in report.data(Detail())["rows"]]
    assert names == ["ranks/0 lora.r=4", "ranks/1 lora.r=16", "eval_0", "eval_1"]


def test_sweeps_of_one_name_stay_apart(tmp_path):
    config = config_text(into=tmp_path / "made.yaml")
    for sweep in ("one/ranks", "two/ranks", "rates"):
        make_training(tmp_path / sweep / "0", config)
        (tmp_path / sweep / "multirun.yaml").touch()
    make_training(tmp_path / "single", config)
    names = sweep_names(collect([tmp_path]).runs)
    assert names == ["one/ranks", "rates", None, "two/ranks"]


def test_an_evaluation_belongs_to_the_run_whose_bundle_it_scored(report):
    rows = rows_by_name(report.data(Detail()))
    assert rows["eval_1"]["scored"] == "ranks/1 lora.r=16"
    assert rows["ranks/1 lora.r=16"]["score_0"] == 0.6
    assert rows["eval_0"]["score_0"] == 0.4


def test_a_run_that_moved_is_found_by_the_end_of_its_path(report, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    data = Report(collect([tmp_path / "elsewhere"]), []).data(Detail())
    assert rows_by_name(data)["eval_0"]["scored"] == "ranks/0 lora.r=4"


def test_answers_of_helm_stand_beside_each_other_and_damaged_ones_are_named(tmp_path):
    for name, scores in (("a", [1.0, 0.0]), ("b", [0.0, 0.0])):
        (tmp_path / name).mkdir()
        write_helm_run(tmp_path / name, "mmlu:subject=anatomy", scores, ["Where?", "Who?"])
    data = Report(collect([tmp_path]), []).data(Detail())
    first, _ = sorted(data["instances"], key=lambda each: each["id"])
    assert first["prompt"] == "Where?"
    assert first["references"][0] == {"text": "Paris", "correct": True}
    assert [(each["run"], each["text"], each["score"]) for each in first["answers"]] == [
        ("a", " answer 0", 1),
        ("b", " answer 0", 0),
    ]
    (state,) = (tmp_path / "b").rglob("scenario_state.json")
    state.write_text("{")
    data = Report(collect([tmp_path]), []).data(Detail())
    assert len(data["instances"]) == 2
    (problem,) = data["problems"]
    assert "HELM's answers to mmlu:subject=anatomy,model=effchal_x cannot be" in problem["reason"]


def test_what_was_not_measured_is_none_and_a_number_never_text(report):
    row = rows_by_name(report.data(Detail()))["ranks/0 lora.r=4"]
    assert row["hours_plan"] is None
    assert row["hours"] == 0.5
    assert row["memory"] == 1.25
    assert row["date"] == "2026-01-02 03:04"


def test_the_headline_says_which_run_is_best_and_how_sure_that_is(report):
    best, loss = report.data(Detail())["headline"]
    assert (best["run"], best["value"]) == ("ranks/1 lora.r=16, dola low", "0.600")
    assert "on 30 instances; next is ranks/1 lora.r=16, greedy with 0.550" in best["why"]
    assert "may be chance" in best["why"]
    assert loss["title"] == "Lowest validation loss"
    assert loss["why"].startswith("Lowest of 2 runs on the same data and base model")


def test_losses_on_other_data_are_not_compared(tmp_path):
    config = config_text(into=tmp_path / "made.yaml")
    for name in "ab":
        make_training(tmp_path / "runs" / name, config, data_sha256=name)
    found = collect([tmp_path / "runs"])
    rows = Report(found, []).data(Detail())["rows"]
    cards = headline(found.runs, rows, [])
    assert [card["why"].split(";")[0] for card in cards] == [
        "The only run on its data and base model"
    ] * 2


def test_the_front_is_among_losses_on_the_same_data(tmp_path):
    config = config_text(into=tmp_path / "made.yaml")
    for name, data, r, loss in (("a", "x", 4, 2.0), ("b", "x", 8, 3.0), ("c", "y", 2, 1.0)):
        run = {"data_sha256": data, "validation_loss": loss}
        make_training(tmp_path / "runs" / name, config, r, **run)
    costs = Report(collect([tmp_path / "runs"]), []).data(Detail())["costs"]
    fronts = {(point["run"], point["front"]) for point in costs}
    assert fronts == {("a", "on the front"), ("b", "beaten by another run")}


def test_a_control_that_jobs_score_again_is_one_line_and_another_result_its_own():
    def score(run, decoding, value, control, instances=24):
        head = {"entry": "e", "metric": "em", "run": run, "model": "m", "decoding": decoding}
        return head | {"score": value, "control": control, "instances": instances}

    scores = [score("0", "greedy", 0.5, control=True), score("1", "greedy", 0.5, control=False)]
    scores += [score("2", "greedy", 0.5, True, 40), score("3", "dola", 0.25, False)]
    scores += [score("4", "dola", 0.75, False)]
    name_lines(scores)
    assert [(each["name"], each["again"]) for each in scores] == [
        ("m · greedy · n = 24", True),
        ("m · greedy · n = 24", False),
        ("m · greedy · n = 40", False),
        ("3 · dola · n = 24", False),
        ("4 · dola · n = 24", False),
    ]


def test_the_pareto_front():
    points = [(1, 0.5), (2, 0.6), (2, 0.4), (3, 0.6), (0.5, 0.1)]
    assert pareto(points, high_is_better=True) == [True, True, False, False, True]
    assert pareto(points, high_is_better=False) == [False, False, False, False, True]


def test_controls_are_those_of_the_evaluation():
    assert (GREEDY, LONGEST) == (BASELINE, LONGEST_OF_EVALUATION)
    names = ["greedy", "greedy, penalty 1.2", "dola low", "longest answer"]
    assert [is_control(name, names) for name in names] == [True, True, False, True]
    assert not is_control("greedy", ["greedy"])


def fields(part):
    if isinstance(part, dict):
        yield from (each for key, each in part.items() if key == "field" and isinstance(each, str))
        yield from (name for each in part.values() for name in fields(each))
    elif isinstance(part, list):
        yield from (name for each in part for name in fields(each))


def test_the_charts_name_fields_that_the_data_have(report):
    data = report.data(Detail())
    curve = {key: None for curve in data["curves"] for key in curve}
    scores = data["scores"][0] | {"role": ""}
    source = data["mixes"][0]["sources"][0] | {"mix": ""}
    layer = data["layers"][0] | {"name": "", "percent": ""}
    tables = {"curves": curve, "costs": data["costs"][0], "scores": scores, "differences": scores}
    tables |= {"layers": layer, "mixes": source, "plans": data["plans"][0]}
    assert set(tables) == set(specs())
    for name, spec in specs().items():
        unknown = {field for field in fields(spec) if not field.startswith("$")} - set(tables[name])
        assert not unknown, name
