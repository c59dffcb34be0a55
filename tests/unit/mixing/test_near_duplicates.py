"""Rows that share most of their phrases: found, verified, and the longest stays."""

import random

import numpy as np
import pytest

from effchal.mixing.example import Example
from effchal.mixing.near_duplicates import (
    answer_length,
    bands_of,
    near_duplicates,
    shared_text,
    signatures,
)
from effchal.prompts.encoder import Turn


def text_of(seed, count=200):
    draw = random.Random(seed)
    return [f"w{draw.randrange(10**6)}" for _ in range(count)]


def changed(words, count):
    """The text with words exchanged that stand far apart: each changes five phrases."""
    words = list(words)
    for number in range(count):
        words[(2 * number + 1) * len(words) // (2 * count)] = f"x{number}"
    return words


def found(texts, threshold=0.8, lengths=None):
    texts = [" ".join(words) for words in texts]
    lengths = np.array(lengths or [len(text) for text in texts])
    rows = signatures(texts, threshold)
    return near_duplicates(rows, lengths, threshold, texts.__getitem__)


def test_similar_rows_go_and_less_similar_ones_stay():
    texts = [text_of(0), changed(text_of(0), 3), text_of(1), changed(text_of(1), 6), text_of(2)]
    # 196 phrases, 15 and 30 of them exchanged.
    assert found(texts) == {1: (0, pytest.approx(181 / 211))}
    assert found(texts, 0.7) == {1: (0, pytest.approx(181 / 211)), 3: (2, pytest.approx(166 / 226))}


def test_nearly_all_pairs_at_the_threshold_are_found_and_none_below_it():
    above = [each for seed in range(100) for each in (text_of(seed), changed(text_of(seed), 4))]
    assert len(found(above)) >= 97  # (196 - 20) / (196 + 20) = 0.81
    below = [each for seed in range(100) for each in (text_of(seed), changed(text_of(seed), 5))]
    assert found(below) == {}  # (196 - 25) / (196 + 25) = 0.77


def test_the_longest_answer_stays_and_of_equals_the_first():
    texts = [text_of(0), changed(text_of(0), 1), changed(text_of(0), 2)]
    assert {row: kept for row, (kept, _) in found(texts, lengths=[5, 9, 7]).items()} == {0: 1, 2: 1}
    assert {row: kept for row, (kept, _) in found(texts, lengths=[5, 5, 5]).items()} == {1: 0, 2: 0}


def test_a_row_goes_only_for_a_row_that_stays():
    start = text_of(0)
    second = changed(start, 4)
    third = [*second[:-24], *text_of(9, 24)]  # similar to the second, not to the first
    chain = [start, second, third]
    gone = found(chain, lengths=[9, 8, 7])
    assert gone.keys() == {1}


def test_the_order_of_rows_does_not_matter():
    texts = [each for seed in range(40) for each in (text_of(seed), changed(text_of(seed), 2))]
    lengths = [1000 - number for number in range(len(texts))]
    order = random.Random(0).sample(range(len(texts)), len(texts))
    there = found([texts[i] for i in order], lengths=[lengths[i] for i in order])
    again = {order[row]: (order[kept], share) for row, (kept, share) in there.items()}
    assert again == found(texts, lengths=lengths)


def test_short_texts_are_one_phrase():
    assert found([["one", "two"], ["One,", "two!"], ["one"], ["?"], ["!"], ["!"]]) == {
        0: (1, 1.0),
        5: (4, 1.0),
    }


def test_many_rows_of_one_form_end_soon():
    form = text_of(0, 80)
    texts = [[*form, *text_of(seed, 60)] for seed in range(1, 301)]
    assert found(texts, 0.5) == {}


def test_signatures_are_the_same_on_every_machine():
    assert signatures(["one two three four five six"], 0.8)[0, :3].tolist() == [
        4293662098,
        2322280054,
        2626228071,
    ]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_the_bands_find_99_of_100_pairs_at_the_threshold(threshold):
    bands, rows = bands_of(threshold)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.99


def test_system_turns_are_not_compared():
    turns = (Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", "Hello"))
    row = Example("s:0", turns)
    assert (shared_text(row), answer_length(row)) == ("Hi\nHello", 5)
