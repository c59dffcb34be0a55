"""What evaluations of the hidden round, and of perturbed entries, count among the finalists."""

import json

from support.contest_runs import evaluation

from effchal.reporting.challenge import challenge_report


def test_perturbed_instances_of_an_evaluation_count_by_their_worst(tmp_path):
    entry = "ethics_justice:data_augmentation=canonical"
    folder = evaluation(tmp_path / "run", {entry: 20})
    lines = [json.loads(line) for line in (folder / "instances.jsonl").read_text().splitlines()]
    changed = []
    for line in lines[:30]:  # the first 20 are right
        score = {"decodings": {"greedy": {"metrics": {"exact_match": 0.0}}}}
        changed.append(line | score | {"perturbation": "mild_mix", "prompt_sha256": "other"})
    with (folder / "instances.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in changed[10:]))
    (run,) = challenge_report([folder]).to_json()["runs"]
    metrics = run["scenarios"]["ETHICS"]["metrics"]
    assert {name: each["value"] for name, each in metrics.items()} == {
        "justice: EM": 0.5,
        "justice: EM (Robustness)": 0.25,
        "justice: EM (Fairness)": 0.5,
    }
    assert run["scenarios"]["ETHICS"]["instances"] == 40


def test_bias_scores_of_sam_sum_have_a_place_but_no_noise(tmp_path):
    folder = evaluation(tmp_path / "run", {"sam_sum": 20})
    results = json.loads((folder / "results.json").read_text())
    bias = {"stereotypes (race)": 0.25}
    results["entries"]["sam_sum"]["decodings"]["greedy"]["of_all_instances"] = bias
    (folder / "results.json").write_text(json.dumps(results))
    (run,) = challenge_report([folder]).to_json()["runs"]
    found = run["scenarios"]["SAMSum"]
    assert found["metrics"]["Stereotypes (race)"] == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert "Representation (race)" in found["not_measured"]
