"""Scores calculated by hand; test_scenarios_helm.py compares them with HELM's own."""

import math

import pytest

from effchal.evaluation.scenarios.metrics import aggregate_extra, score_choices, score_completion
from effchal.evaluation.scenarios.types import BiasTags, Instance, Reference, Scenario, Settings


def generation(metric, *more):
    return Scenario("any", (), Settings(1, metric, more))


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("Paris", " Paris\n", (1, 1, 1, 1)),
        ("Paris", "paris!", (0, 1, 0, 1)),
        ("Paris", "Paris, France", (0, 0, 1, 1)),
        ("the cat", "A cat.", (0, 1, 0, 1)),
        ("x", "", (0, 0, 0, 0)),
        ("x", "  \n", (0, 0, 0, 0)),
        ("É", "é", (0, 1, 0, 1)),
        ("“x”", '"x"', (0, 0, 0, 0)),  # only ASCII punctuation goes
    ],
)
def test_exact_matches(gold, text, expected):
    names = ("exact_match", "quasi_exact_match", "prefix_exact_match", "quasi_prefix_exact_match")
    scores = score_completion(
        generation(*names), Instance("id0", "", (Reference(gold, True),)), text
    )
    assert tuple(scores.values()) == expected
    assert tuple(scores) == names


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("The answer is 1,234.", "so 1234 eggs", 1),
        ("The answer is 5.", "#### 5", 1),
        ("The answer is 5.", "5.0", 0),
        ("The answer is 5.", "5 or 6", 0),
        ("The answer is 6.", "5 6", 0),  # HELM takes "5 6" for one number
        ("The answer is 5.", "5, yes", 1),
        ("The answer is 5.", "5 , yes", 0),  # and a lone comma for an empty one
        ("The answer is -5.", "it is -5", 1),
        ("The answer is 5.", "no", 0),
    ],
)
def test_final_number(gold, text, expected):
    instance = Instance("id0", "", (Reference(gold, True),))
    assert score_completion(generation("final_number_exact_match"), instance, text) == {
        "final_number_exact_match": expected
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("B", 1), (" B\n", 1), ("b", 0), ("B.", 0), ("two", 0), ("", 0), ("A", 0)],
)
def test_a_letter_stands_for_its_reference_and_nothing_else_counts(text, expected):
    references = (Reference("one", False), Reference("two", True))
    instance = Instance("id0", "", references, letters=("A", "B"))
    assert score_completion(generation("exact_match"), instance, text) == {"exact_match": expected}


def test_the_best_of_several_correct_references_counts():
    instance = Instance(
        "id0", "", (Reference("no", False), Reference("4", True), Reference("four", True))
    )
    assert score_completion(generation("exact_match"), instance, "four") == {"exact_match": 1}
    assert score_completion(generation("exact_match"), instance, "no") == {"exact_match": 0}


def test_rouge_drops_one_pair_of_braces():
    pytest.importorskip("rouge_score")
    instance = Instance("id0", "", (Reference("{The cats sat}", True),))
    assert score_completion(generation("rouge_2", "rouge_l"), instance, " the cat sat") == {
        "rouge_2": 1,
        "rouge_l": 1,
    }


def choices(*correct, best=0):
    texts = tuple(f" {number}" for number in range(len(correct)))
    references = tuple(map(Reference, texts, correct))
    return Instance("id0", "", references, choices=texts, best_choice=best)


def test_mc_scores_by_hand():
    logs = [math.log(p) for p in (0.2, 0.4, 0.3, 0.1)]
    scores = score_choices(choices(True, True, False, False), logs)
    assert scores == {"mc1": 0, "mc2": pytest.approx(0.6), "mc3": 0.5}
    assert score_choices(choices(True, True, False, False, best=1), logs)["mc1"] == 1


def test_a_tie_is_no_win():
    assert score_choices(choices(True, False), [-3.0, -3.0]) == {"mc1": 0, "mc2": 0.5, "mc3": 0}


def test_mc2_survives_probabilities_that_are_no_floats():
    scores = score_choices(choices(True, False), [-50_000.0, -50_001.0])
    assert scores["mc2"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert score_choices(choices(True, False), [-math.inf, -2.0])["mc2"] == 0
    assert score_choices(choices(True, False), [-math.inf, -math.inf]) == {
        "mc1": 0,
        "mc2": 0,
        "mc3": 0,
    }


@pytest.mark.parametrize("logprobs", [[-1.0], [-1.0, math.nan]])
def test_logprobs_that_do_not_fit_the_choices_are_refused(logprobs):
    with pytest.raises(ValueError, match="id0 needs 2 numbers"):
        score_choices(choices(True, False), logprobs)


def test_bias_scores_by_hand():
    ambiguous = BiasTags(True, True, correct="C", target="A", non_target="B", unknown="C")
    clear = BiasTags(False, False, correct="B", target="A", non_target="B", unknown="C")
    instances = [
        Instance(f"id{n}", "", (), tags=tags)
        for n, tags in enumerate([ambiguous] * 4 + [clear] * 2)
    ]
    scenario = Scenario("bbq", tuple(instances), Settings(1, "exact_match"))
    records = list(zip(instances, ["A", " A", "B", "C", "B", ""], strict=True))
    assert aggregate_extra(scenario, records) == {
        "bbq_accuracy": pytest.approx(2 / 5),  # the empty one does not count
        "bbq_metric_ambiguous_bias": pytest.approx((2 * 2 / 3 - 1) * 3 / 5),
        "bbq_metric_unambiguous_bias": 1.0,
    }
    assert aggregate_extra(generation("exact_match"), []) == {}


def test_of_two_stereotyped_groups_helm_knows_one_letter_and_takes_any_answer():
    for is_ambiguous, expected in ((True, 1.0), (False, -1.0)):
        tags = BiasTags(True, is_ambiguous, correct="C", target="B", non_target="", unknown="C")
        instance = Instance("id0", "", (), tags=tags)
        scenario = Scenario("bbq", (instance,), Settings(1, "exact_match"))
        scores = aggregate_extra(scenario, [(instance, "A")])
        name = "bbq_metric_ambiguous_bias" if is_ambiguous else "bbq_metric_unambiguous_bias"
        assert scores[name] == expected
