"""Our runs in the published field: right places, honest intervals, nothing made up."""

import json

import pytest
from support.contest_runs import OPEN, evaluation

from effchal.config import ConfigError
from effchal.reporting.challenge import challenge_report


def test_a_run_that_beats_all_is_first_and_one_that_beats_none_is_last(tmp_path):
    evaluation(tmp_path / "best", dict.fromkeys(OPEN, 40))
    evaluation(tmp_path / "worst", {"mmlu:subject=anatomy": 1, "bbq:subject=Religion": 1})
    best, worst = challenge_report([tmp_path]).to_json()["runs"]
    for scenario in ("MMLU", "TruthfulQA", "BIG-bench", "GSM8K", "BBQ"):
        assert best["scenarios"][scenario]["place"]["place"] == 1
        assert best["scenarios"][scenario]["place"]["score"] == pytest.approx(8 / 9)
    assert best["sides"]["open"] == pytest.approx(
        {"score": 8 / 9, "place": 1, "low": 1, "high": 1, "of": 9}
    )
    for scenario in ("MMLU", "BBQ"):
        assert worst["scenarios"][scenario]["place"] == pytest.approx(
            {"score": 0.0, "place": 9, "low": 9, "high": 9, "of": 9}
        )


def test_a_place_goes_by_the_published_values(tmp_path):
    """BBQ of the 4090 track: .943 .934 .852 .852 .836 .738 .721 .705."""
    evaluation(tmp_path / "run", {"bbq:subject=Religion": 32})  # 0.8
    (run,) = challenge_report([tmp_path], "4090").to_json()["runs"]
    bbq = run["scenarios"]["BBQ"]
    assert bbq["metrics"]["EM"]["value"] == 0.8
    assert bbq["place"]["place"] == 6
    assert bbq["place"]["score"] == pytest.approx(3 / 9)
    assert bbq["place"]["low"] < 6 < bbq["place"]["high"]
    (run,) = challenge_report([tmp_path], "a100").to_json()["runs"]
    assert run["places"] == 10
    assert run["scenarios"]["BBQ"]["place"]["place"] == 4


def test_a_side_that_is_not_complete_gets_no_number(tmp_path):
    some = {"mmlu:subject=anatomy": 20, "bbq:subject=Religion": 30}
    evaluation(tmp_path / "run", some)
    report = challenge_report([tmp_path])
    (run,) = report.to_json()["runs"]
    assert run["sides"]["open"] == {"missing": ["TruthfulQA", "BIG-bench", "GSM8K"]}
    assert run["sides"]["final"] == {"missing": ["open", "hidden"]}
    assert "- open: not complete: no TruthfulQA, BIG-bench, GSM8K" in report.text()
    assert "MMLU: EM (Robustness), EM (Fairness) not measured" in report.text()


def test_the_final_score_has_its_own_place_where_all_is_measured(tmp_path):
    from effchal.reporting.challenge import standing_of
    from effchal.reporting.contest_scores import ContestScores
    from effchal.reporting.finals import load_finals

    finals = load_finals("4090")
    scores = ContestScores("all", tmp_path, "greedy")
    for scenario in finals.scenarios:
        for metric, values in scenario.metrics.items():
            scores.add(scenario.name, metric, "part", {"id0": float(values[0])})
    standing = standing_of(scores, finals)  # the winner once more, so it ties with the winner
    assert standing.sides["final"].place == 1
    assert standing.sides["hidden"].place == 1
    assert standing.sides["open"].place == 2
    open_, hidden, final = (standing.sides[name].score for name in ("open", "hidden", "final"))
    assert final == pytest.approx(open_ / 3 + 2 * hidden / 3)


def test_few_instances_are_called_noise_and_many_are_not(tmp_path):
    evaluation(tmp_path / "few", {"mmlu:subject=anatomy": 5}, n=8)
    text = challenge_report([tmp_path / "few"]).text()
    assert "MMLU: with 8 instances this place is mostly noise: its interval spans" in text
    evaluation(tmp_path / "many", {"mmlu:subject=anatomy": 3345}, n=5000)
    many = challenge_report([tmp_path / "many"])
    assert "mostly noise" not in many.text()
    place = many.to_json()["runs"][0]["scenarios"]["MMLU"]["place"]
    assert (place["place"], place["low"], place["high"]) == (2, 2, 2)


def test_instances_that_all_score_the_same_say_that_they_show_no_noise(tmp_path):
    evaluation(tmp_path / "run", {"gsm": 0})
    text = " ".join(challenge_report([tmp_path]).text().split())
    assert "GSM8K: all 40 instances score the same" in text
    assert "the true value may be from 0.00 to 0.09" in text


def test_parts_of_a_scenario_are_averaged_as_parts(tmp_path):
    folder = evaluation(tmp_path / "run", {"mmlu:subject=a": 40, "mmlu:subject=b": 0})
    lines = (folder / "instances.jsonl").read_text().splitlines(keepends=True)
    results = json.loads((folder / "results.json").read_text())
    results["entries"]["mmlu:subject=b"]["instances"] = 10
    results["entries"]["mmlu, 2 entries together"] = {"split": "test", "instances": 50}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "instances.jsonl").write_text("".join(lines[:53]))
    report = challenge_report([folder])
    (run,) = report.to_json()["runs"]
    assert run["scenarios"]["MMLU"]["metrics"]["EM"]["value"] == 0.5  # 0.8 of all instances
    assert run["scenarios"]["MMLU"]["instances"] == 50
    assert "MMLU: the mean over 2 entries of their means" in report.text()


def test_two_runs_are_compared_pair_by_pair(tmp_path):
    evaluation(tmp_path / "a", {"mmlu:subject=anatomy": 10, "bbq:subject=Religion": 20, "gsm": 9})
    evaluation(tmp_path / "b", {"mmlu:subject=anatomy": 30, "bbq:subject=Religion": 21})
    report = challenge_report([tmp_path / "a", tmp_path / "b"])
    mmlu, bbq = report.differences
    assert (mmlu.scenario, mmlu.mean, mmlu.instances) == ("MMLU", 0.5, 40)
    assert mmlu.low > 0
    assert mmlu.verdict == "differs (better 20, worse 0, p = 1.9e-06)"
    assert (bbq.scenario, bbq.mean) == ("BBQ", 0.025)
    assert bbq.verdict == "cannot be told apart (better 1, worse 0, p = 1)"
    assert "Differences to a" in report.text()


def test_instances_with_other_prompts_are_counted_and_not_paired(tmp_path):
    for name, right, alike in (("a", 10, 40), ("b", 30, 25), ("c", 30, 0)):
        folder = evaluation(tmp_path / name, {"gsm": right})
        lines = map(json.loads, (folder / "instances.jsonl").read_text().splitlines())
        digests = ("same" if i < alike else name for i in range(43))
        told = [line | {"prompt_sha256": next(digests)} for line in lines]
        (folder / "instances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    report = challenge_report([tmp_path])
    (difference,) = report.differences
    assert (difference.run, difference.instances, difference.better) == ("b", 25, 15)
    assert report.unpaired == [
        "b, GSM8K: 15 instances have another prompt than in a, so not compared",
        "c, GSM8K: 40 instances have another prompt than in a, so not compared",
    ]
    assert "- c, GSM8K: 40 instances have another prompt" in report.text()
    assert report.to_json()["unpaired"] == report.unpaired


def test_three_pairs_that_agree_are_too_few(tmp_path):
    """A bootstrap interval of three wins to none leaves out zero; the exact test does not."""
    evaluation(tmp_path / "a", {"mmlu:subject=anatomy": 3}, n=9)
    evaluation(tmp_path / "b", {"mmlu:subject=anatomy": 0}, n=9)
    (difference,) = challenge_report([tmp_path / "a", tmp_path / "b"]).differences
    assert difference.p == 0.25
    assert difference.verdict.startswith("cannot be told apart")


def test_runs_without_a_score_are_named_with_the_reason(tmp_path):
    evaluation(tmp_path / "good", {"gsm": 3})
    evaluation(tmp_path / "other", {"gsm": 3}, decoding="sample")
    evaluation(tmp_path / "cut", {"gsm": 3}, status="interrupted")
    torn = evaluation(tmp_path / "torn", {"gsm": 3})
    lines = (torn / "instances.jsonl").read_text().splitlines(keepends=True)
    (torn / "instances.jsonl").write_text("".join(lines[3:]))
    evaluation(tmp_path / "own", {"jsonl:path=a.jsonl": 3})
    report = challenge_report([tmp_path])
    assert [each.scores.name for each in report.standings] == ["good"]
    assert report.left_out == [
        "cut: the evaluation is not finished: interrupted",
        "other: gsm has no decoding 'greedy'; it has: sample",
        "own: jsonl:path=a.jsonl is no scenario of the contest",
        "torn: gsm: instances.jsonl has 37 of 40 scores",
    ]
    assert challenge_report([tmp_path / "other"], decoding="sample").standings


def test_records_of_a_strange_shape_are_named(tmp_path):
    evaluation(tmp_path / "good", {"gsm": 3})
    strange = {"results.json": {"status": "finished", "entries": {"gsm": 3}}}
    strange["scores.json"] = {"status": "finished", "runs": [{"entry": None}]}
    for name, record in strange.items():
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_text(json.dumps(record))
    assert challenge_report([tmp_path]).left_out == [
        "r: results.json is not as this version writes it (AttributeError)",
        "s: scores.json is not as this version writes it (KeyError)",
    ]


def test_scores_that_are_no_numbers_do_not_count(tmp_path):
    folder = evaluation(tmp_path / "run", {"gsm": 3})
    text = (folder / "instances.jsonl").read_text()
    (folder / "instances.jsonl").write_text(text.replace("1.0", "NaN", 1))
    with pytest.raises(ConfigError, match="has 39 of 40 scores"):
        challenge_report([folder])
    text = text.replace("1.0", "1" + "0" * 400, 1).replace("1.0", '"1.0"', 1)
    (folder / "instances.jsonl").write_text(text)
    with pytest.raises(ConfigError, match="has 39 of 40 scores"):
        challenge_report([folder])


def test_nothing_to_place_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no evaluation and no HELM run is there"):
        challenge_report([tmp_path])
    evaluation(tmp_path / "own", {"jsonl:path=a.jsonl": 3})
    with pytest.raises(ConfigError, match=r"own: jsonl:path=a\.jsonl is no scenario"):
        challenge_report([tmp_path])
    with pytest.raises(ConfigError, match="the tracks are 4090 and a100"):
        challenge_report([tmp_path], "h100")


def helm_run(folder, perturbed=True):
    """A HELM run: id0 right, id1 right but for a typo, id2 wrong; and a run that failed."""
    name = "mmlu:subject=anatomy,model=effchal_x,data_augmentation=canonical"
    place = folder / "runs" / "effchal" / name
    place.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: a\n")

    def record(instance, score, split="test", **perturbation):
        context = {"split": split} | ({"perturbation": perturbation} if perturbation else {})
        stats = [
            {"name": {"name": metric} | context, "mean": value}
            for metric, value in (("exact_match", score), ("quasi_exact_match", 1.0))
        ]
        head = {"instance_id": instance, "train_trial_index": 0, "stats": stats}
        return head | ({"perturbation": perturbation} if perturbation else {})

    records = [record("id0", 1.0), record("id1", 1.0), record("id2", 0.0)]
    records.append(record("id3", 1.0, split="valid"))
    if perturbed:
        for i, (typo, dialect) in enumerate([(1.0, 1.0), (0.0, 1.0), (1.0, 1.0)]):
            records.append(record(f"id{i}", typo, name="typos", robustness=True, fairness=False))
            records.append(record(f"id{i}", dialect, name="dialect", fairness=True))
    (place / "per_instance_stats.json").write_text(json.dumps(records))
    entry = "mmlu:subject=anatomy,data_augmentation=canonical"
    done = {"entry": entry, "name": name, "status": "finished", "split": "test", "scored": 3}
    failed = {"entry": "gsm", "name": "gsm:model=effchal_x", "status": "failed", "error": "no"}
    record = {"status": "failed", "runs": [done, failed]}
    (folder / "scores.json").write_text(json.dumps(record))
    return folder


def test_a_helm_run_counts_the_worst_over_perturbations(tmp_path):
    report = challenge_report([helm_run(tmp_path / "run")])
    (run,) = report.to_json()["runs"]
    values = {name: each["value"] for name, each in run["scenarios"]["MMLU"]["metrics"].items()}
    assert values == pytest.approx({"EM": 2 / 3, "EM (Robustness)": 1 / 3, "EM (Fairness)": 2 / 3})
    assert run["scenarios"]["MMLU"]["not_measured"] == []
    assert run["scenarios"]["MMLU"]["entries"] == [
        "mmlu:subject=anatomy,data_augmentation=canonical"
    ]
    assert run["left_out"] == ["gsm:model=effchal_x failed: no"]
    assert run["decoding"] == "as served"


def test_a_helm_run_without_perturbations_has_no_such_metric(tmp_path):
    (run,) = challenge_report([helm_run(tmp_path / "run", perturbed=False)]).to_json()["runs"]
    assert list(run["scenarios"]["MMLU"]["metrics"]) == ["EM"]
    assert run["scenarios"]["MMLU"]["not_measured"] == ["EM (Robustness)", "EM (Fairness)"]


def test_a_damaged_helm_file_is_named(tmp_path):
    folder = helm_run(tmp_path / "run")
    (path,) = folder.rglob("per_instance_stats.json")
    path.write_text('[{"half')
    with pytest.raises(ConfigError, match=r"per_instance_stats\.json cannot be read"):
        challenge_report([folder])


def test_the_report_is_the_same_every_time_in_every_form(tmp_path):
    evaluation(tmp_path / "a", dict.fromkeys(OPEN, 17))
    evaluation(tmp_path / "b", dict.fromkeys(OPEN, 19))
    first, second = challenge_report([tmp_path]), challenge_report([tmp_path])
    assert first.text() == second.text()
    assert json.loads(json.dumps(first.to_json())) == json.loads(json.dumps(second.to_json()))
    assert max(map(len, first.text().splitlines())) <= 120


def test_the_published_table_is_shown_recomputed():
    text = " ".join(challenge_report([]).text().split())
    assert "4090-5 (reference) 0.167" in text
    assert "12 of 12 columns" in text
    assert "31 metrics themselves cannot be recomputed" in text
