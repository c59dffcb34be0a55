"""How an answer is compared with the right ones."""

from decimal import Decimal

import pytest

from effchal.config.choices import Match
from effchal.evaluation.questions.matches import comparison, last_number, letter_of


def score(match, golds, text):
    return comparison(Match(match), golds)(text)[match]


@pytest.mark.parametrize(
    ("match", "golds", "text", "expected"),
    [
        ("exact", ["Paris"], " Paris\n", 1),
        ("exact", ["Paris"], "paris", 0),
        ("exact", ["Rome", "Paris"], "Paris", 1),
        ("exact", ["Paris"], "", 0),
        ("quasi_exact", ["Paris"], "the paris.", 1),
        ("starts_with", ["Yes"], "Yes, it is.", 1),
        ("starts_with", ["Yes"], "Oh Yes", 0),
        ("contains", ["pARIs"], "It is PARIS, I think", 1),
        ("contains", ["Straße"], "die STRASSE", 1),
        ("contains", ["Paris"], "Par is", 0),
        ("regex", [r"\b19\d\d\b"], "in 1969.", 1),
        ("regex", [r"^no", r"(?i)^yes"], "YES", 1),
        ("regex", [r"^yes"], "oh yes", 0),
        ("rouge_1", ["a cat slept"], "a dog slept", 2 / 3),
        ("rouge_l", ["a cat slept"], "slept a cat", 2 / 3),
        ("rouge_2", ["a cat slept"], "a cat ran", 1 / 2),
    ],
)
def test_an_answer_is_scored(match, golds, text, expected):
    assert score(match, golds, text) == pytest.approx(expected)


def test_exact_shows_quasi_exact_beside_it():
    assert comparison(Match.exact, ["Paris"])("paris.") == {"exact": 0, "quasi_exact": 1}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 12 and then 7.", "7"),
        ("$1,234,567.50 in all", "1234567.5"),
        ("x = -4", "-4"),
        ("x = \u22124", "-4"),
        ("3-4", "4"),
        ("(5)-2", "2"),
        ("$-5", "-5"),
        (".5", "0.5"),
        ("1.50 kg", "1.5"),
        ("1e3", "1000"),
        ("12,34", "34"),
        ("1,2345", "2345"),
        ("#### 1,800", "1800"),
        ("72%", "72"),
        ("Answer: 42.", "42"),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == Decimal(number)
    assert score("number", [number], text) == 1
    assert score("number", ["-987"], text) == 0


@pytest.mark.parametrize("text", ["", "none", "a, b."])
def test_a_text_without_a_number_is_wrong(text):
    assert last_number(text) is None
    assert score("number", ["0"], text) == 0


@pytest.mark.parametrize(
    ("match", "gold", "message"),
    [
        ("regex", "(", r"no regular expression: .* in '\('"),
        ("regex", "a{99999999999}", "no regular expression"),
        ("number", "four", "no number in 'four'"),
    ],
)
def test_a_right_answer_of_no_use_is_refused_before_any_is_asked(match, gold, message):
    with pytest.raises(ValueError, match=message):
        comparison(Match(match), ["1", gold])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" B. Because", "B"),
        ("(B) green", "B"),
        ("**B**", "B"),
        ("b", None),
        ("Bread", None),
        ("E", None),
        ("", None),
    ],
)
def test_the_letter_that_an_answer_begins_with(text, letter):
    assert letter_of(text, tuple("ABCD")) == letter
