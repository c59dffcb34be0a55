"""Tests and intervals of paired answers, against published values."""

import random

import pytest

from effchal.evaluation.stats import holm, mcnemar, paired_proportions, pairs_needed, sign_flip_p


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (10, 2, 0.038574),  # 2 * (1 + 12 + 66) / 4096
        (0, 6, 0.03125),  # the smallest count of pairs that 0.05 can show
        (0, 5, 0.0625),
        (1, 7, 0.0703125),  # the example of Fagerland et al. 2013 (doi 10.1186/1471-2288-13-91)
        (5, 5, 1.0),
        (0, 0, 1.0),
        (3000, 3000, 1.0),
    ],
)
def test_mcnemar_is_the_exact_binomial(only_a, only_b, p):
    assert mcnemar(only_a, only_b) == pytest.approx(p, abs=5e-7)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_the_interval_of_paired_shares_is_the_adjusted_wald():
    # By hand: shares 8/23 and 2/23, difference -6/23, variance (10/23 - 36/529) / 23.
    found = paired_proportions(7, 1, 21, 0.95)
    assert found.mean == pytest.approx(-6 / 21)
    assert (found.low, found.high) == pytest.approx((-0.5084, -0.0134), abs=1e-4)
    none = paired_proportions(0, 0, 40, 0.95)
    assert none.low == -none.high < -0.05  # no difference seen is not none there
    assert paired_proportions(0, 1, 1, 0.99).high == 1.0


def test_the_interval_of_paired_shares_covers_the_truth():
    generator, covered = random.Random(0), 0
    for _ in range(400):  # A alone right in 20 % of pairs, B alone in 30 %
        draws = [generator.random() for _ in range(60)]
        only_a, only_b = sum(d < 0.2 for d in draws), sum(0.2 <= d < 0.5 for d in draws)
        found = paired_proportions(only_a, only_b, 60, 0.9)
        covered += found.low <= 0.1 <= found.high
    assert 0.86 < covered / 400 < 0.94


def test_holm_is_the_step_down_of_the_paper():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]


@pytest.mark.parametrize(("count", "p"), [(1, 1.0), (3, 0.25), (5, 0.0625), (10, 2 / 1024)])
def test_few_differences_of_one_sign_show_as_much_as_their_signs_can(count, p):
    assert sign_flip_p([0.05] * count, 999) == pytest.approx(p)


def test_the_p_value_of_flipped_signs_is_right_as_often_as_it_says():
    assert sign_flip_p([0.0] * 10, 999) == 1.0
    assert sign_flip_p([0.5] * 20, 999) == pytest.approx(2 / 2**20)
    assert sign_flip_p([0.5] * 40, 999) == pytest.approx(1 / 1000)
    assert sign_flip_p([0.1, 0.2, -0.3], 999) == 1.0
    generator = random.Random(0)
    p_values = [sign_flip_p([generator.gauss(0, 1) for _ in range(50)], 300) for _ in range(200)]
    assert sum(p <= 0.1 for p in p_values) / 200 == pytest.approx(0.1, abs=0.06)


def test_so_many_pairs_show_a_difference_as_often_as_it_says():
    count = pairs_needed(0.1, 0.7, 0.95, 0.8)
    assert count == 385  # ((1.960 + 0.842) * 0.7 / 0.1)^2
    assert pairs_needed(0.0, 0.7, 0.95, 0.8) is None
    generator, shown = random.Random(0), 0
    for _ in range(300):  # the same mean and deviation: 19.5 % and 29.5 % of pairs
        draws = [generator.random() for _ in range(count)]
        only_a, only_b = sum(d < 0.2 for d in draws), sum(0.2 <= d < 0.5 for d in draws)
        shown += mcnemar(only_a, only_b) <= 0.05
    assert shown / 300 == pytest.approx(0.8, abs=0.07)
