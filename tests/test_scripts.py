"""The thin scripts, where they decide something."""

import importlib.util

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def helm_scores():
    spec = importlib.util.spec_from_file_location("helm_scores", ROOT / "scripts" / "helm_scores.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stat(name, split, mean, **more):
    return {"name": {"name": name, "split": split, **more}, "mean": mean}


def test_a_score_is_counted_on_its_own_split(helm_scores):
    stats = [
        *(stat("num_instances", "test", 9), stat("num_instances", "valid", 1), stat("exact_match", "valid", 0.0)),
        *(stat("exact_match", "test", 0.2), stat("quasi_exact_match", "test", 0.3)),
        stat("quasi_exact_match", "test", 0.9, perturbation={"name": "robustness"}),
        {"name": {"name": "num_train_trials"}, "mean": 1},
    ]
    assert helm_scores.main_metric(stats) == ("test", "quasi_exact_match", 0.3, 9)


def test_a_scenario_with_no_test_split_is_scored_on_valid(helm_scores):
    stats = [stat("num_instances", "valid", 10), stat("exact_match", "valid", 0.5)]
    assert helm_scores.main_metric(stats) == ("valid", "exact_match", 0.5, 10)
    with pytest.raises(SystemExit, match="none of final_number_exact_match"):
        helm_scores.main_metric([stat("latency", "test", 1.0)])
