"""What counts as reproduced."""

import json

import pytest

from effchal.evaluation.stats import mean_interval
from effchal.submission.verdicts import (
    of_adapter,
    of_answers,
    of_base_model,
    of_conformance,
    of_scores,
    of_training,
    of_versions,
    wider_interval,
)

RUN = {
    "data_sha256": "2:aa",
    "spent_s": 50.0,
    "limit_s": 60.0,
    "status": "finished",
    "step": 3,
    "steps_planned": 3,
    "validation_loss": 1.0,
    "adapter_sha256": "ab" * 32,
}


def scores(mean, low, high, instances=20, **counts):
    metrics = {"score": {"mean": mean, "low": low, "high": high}}
    decodings = {"greedy": {"metrics": metrics, "counts": counts}}
    entry = {"instances": instances, "main_metric": "score", "decodings": decodings}
    return {"entries": {"mine": entry}}


def verdict(there, here):
    (found,) = of_scores(there, here)
    return found.ok


@pytest.mark.parametrize(
    ("mean", "ok"),
    [(0.5, True), (0.3, True), (0.7, True), (0.7 + 1e-7, True), (0.71, False), (0.29, False)],
)
def test_a_score_must_lie_in_the_stated_interval(mean, ok):
    assert verdict(scores(0.5, 0.3, 0.7), scores(mean, mean, mean)) is ok


def test_a_score_that_is_not_there_fails():
    assert verdict(scores(0.5, 0.3, 0.7), {"entries": {}}) is False


def test_one_question_is_not_judged():
    assert verdict(scores(1.0, 1.0, 1.0, 1), scores(0.0, 0.0, 0.0, 1)) is None
    assert verdict(scores(1.0, 1.0, 1.0, 9, score=1), scores(0.0, 0.0, 0.0, 9)) is None


def test_where_all_answers_are_alike_the_interval_is_exact():
    """Of 10 questions, none right: a share of 0.308 would give that in 2.5 % of all draws."""
    for value in (0.0, 1.0):
        found = mean_interval([value] * 10, resamples=100, confidence=0.95)
        there = scores(found.mean, found.low, found.high, 10)
        assert verdict(there, scores(abs(value - 0.3), 0, 1)) is True
        assert verdict(there, scores(abs(value - 0.4), 0, 1)) is False
    summary = scores(0.0, 0.0, 0.0, 10)["entries"]["mine"]["decodings"]["greedy"]
    assert (1 - wider_interval(summary, "score", 10).high) ** 10 == pytest.approx(0.025)


def judged(there, here, limit_s=60.0):
    return {each.what: each.ok for each in of_training(there, here, limit_s)}


def test_data_and_time_of_a_training_are_judged():
    told = {"status": None, "steps": None, "validation loss": None, "adapter": None}
    assert judged(RUN, RUN) == {"data": True, "time": True} | told
    other = RUN | {"data_sha256": "2:ab", "spent_s": 61.0, "validation_loss": None, "step": 2}
    assert judged(RUN, other) == {"data": False, "time": False} | told


def test_only_a_rule_that_was_kept_can_be_broken_anew():
    there, same = ({"kept": 5, "broken": ["a"]} for _ in range(2))
    assert of_conformance(there, same).ok
    assert of_conformance(there, {"kept": 6, "broken": []}).ok
    found = of_conformance(there, {"kept": 4, "broken": ["a", "b"]})
    assert not found.ok
    assert "(b)" in found.here


def test_a_base_model_is_known_by_its_digest_or_else_by_its_commit():
    local, other = ({"name": "x", "revision": None, "fingerprint": digest} for digest in "ab")
    assert of_base_model(local, local | {"name": "moved"}).ok
    assert not of_base_model(local, other).ok
    hub = {"name": "org/model", "revision": "aa", "fingerprint": None}
    assert of_base_model(hub, hub).ok
    assert not of_base_model(hub, hub | {"revision": "bb"}).ok


def test_other_versions_are_told():
    found = of_versions({"torch": "1", "peft": "2"}, {"torch": "2", "peft": "2", "liger": "1"})
    assert (found.there, found.here) == ("torch 1, liger none", "torch 2, liger 1")
    assert found.ok is None


def test_answers_are_compared_to_the_letter(tmp_path):
    def write(name, *texts):
        lines = [
            {
                "entry": "mine",
                "id": str(number),
                "split": "test",
                "prompt_sha256": "aa",
                "decodings": {"greedy": {"text": text, "metrics": {"score": 1.0}}},
            }
            for number, text in enumerate(texts)
        ]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    there = write("there", "a", "b", "c")
    found = of_answers(there, write("here", "a", "B"))
    assert (found.there, found.here, found.ok) == ("3", "1 the same", None)
    assert of_answers(there, there).here == "3 the same"


def test_the_adapter_of_the_folder_is_judged():
    assert of_adapter("aa", "aa").ok
    assert not of_adapter("aa", "ab").ok
