"""The published tables of 2023 follow from their metrics by the contest's formula."""

import numpy as np
import pytest

from effchal.reporting.finals import (
    TRACKS,
    final_score,
    geometric_mean,
    load_finals,
    places,
    win_rates,
)


@pytest.mark.parametrize("track", TRACKS)
def test_every_published_column_is_recomputed(track):
    finals = load_finals(track)
    computed, published = finals.recomputed(), finals.published()
    assert list(computed) == list(published)
    assert len(computed) == 12
    for name, column in published.items():
        assert computed[name] == pytest.approx(column, abs=1e-12), name


@pytest.mark.parametrize(("track", "size"), [("4090", 8), ("a100", 9)])
def test_the_entries_stand_in_the_order_of_the_final_score(track, size):
    finals = load_finals(track)
    assert len(finals.entries) == size
    assert places(finals.recomputed()["final"]).tolist() == list(range(1, size + 1))


@pytest.mark.parametrize("track", TRACKS)
def test_published_shares_are_of_the_instances_that_the_table_names(track):
    """Sixths of an instance occur; the source does not say why."""
    for scenario in load_finals(track).scenarios:
        if scenario.instances is not None:
            main = next(iter(scenario.metrics.values()))
            sixths = np.nan_to_num(main) * scenario.instances * 6
            assert sixths == pytest.approx(sixths.round(), abs=1e-6), scenario.name


def test_win_rates_by_hand():
    assert win_rates(np.array([0.1, 0.4, 0.4, 0.2])).tolist() == [0.0, 0.625, 0.625, 0.25]
    assert win_rates(np.array([0.1, 0.4]), lower_is_better=True).tolist() == [0.5, 0.0]


def test_a_missing_value_counts_as_zero_and_as_the_worst_where_lower_is_better():
    values = np.array([np.nan, 0.0, 0.3])
    assert win_rates(values).tolist() == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert win_rates(values, lower_is_better=True).tolist() == pytest.approx([0, 2 / 3, 1 / 3])
    two = win_rates(np.array([np.nan, np.nan, 5.0]), lower_is_better=True)
    assert two.tolist() == pytest.approx([1 / 6, 1 / 6, 2 / 3])


def test_one_zero_makes_a_side_zero():
    columns = [np.array([0.0, 0.25]), np.array([0.9, 1.0])]
    assert geometric_mean(columns).tolist() == [0.0, 0.5]


def test_the_hidden_side_counts_twice():
    sides = {"open": np.array([0.9, 0.0]), "hidden": np.array([0.0, 0.9])}
    assert final_score(sides).tolist() == pytest.approx([0.3, 0.6])


def test_equal_scores_share_the_better_place():
    assert places(np.array([0.2, 0.5, 0.5, 0.1])).tolist() == [3, 1, 1, 4]
