"""How an answer is compared with the right ones: a score of 0 to 1 for each way of `match`."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial

from effchal.config.choices import Match
from effchal.evaluation.scenarios.metrics import compare_texts, import_rouge

Compare = Callable[[str], dict[str, float]]
HELMS = {  # the names of HELM's metrics, as this package computes them
    Match.exact: "exact_match",
    Match.quasi_exact: "quasi_exact_match",
    Match.starts_with: "prefix_exact_match",
    Match.rouge_1: "rouge_1",
    Match.rouge_2: "rouge_2",
    Match.rouge_l: "rouge_l",
}
ROUGES = (Match.rouge_1, Match.rouge_2, Match.rouge_l)
# A sign counts where nothing stands before it that it could join: "3-4" ends in 4.
NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-\u2212])?"
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d{1,3})?"
)
AROUND_LETTERS = "()[]{}.,:;*_\"'`"


def comparison(match: Match, golds: Sequence[str]) -> Compare:
    """Scores of an answer by name; the best over the right answers.

    Raises:
        ValueError: a right answer that is no pattern, or has no number in it.
        ScenarioError: ROUGE without its library.
    """
    if match is Match.regex:
        patterns = [compiled(gold) for gold in golds]
        return lambda text: {"regex": float(any(p.search(text) for p in patterns))}
    if match is Match.number:
        numbers = [last_number(gold) for gold in golds]
        if None in numbers:
            raise ValueError(f"no number in {golds[numbers.index(None)]!r}")
        return lambda text: {"number": float(last_number(text) in numbers)}
    if match is Match.contains:
        folded = [gold.strip().casefold() for gold in golds]
        return lambda text: {"contains": float(any(gold in text.casefold() for gold in folded))}
    if match in ROUGES:
        import_rouge()  # found missing now, not after hours of generation
    ways = [match, Match.quasi_exact] if match is Match.exact else [match]
    return partial(best_of, ways, golds)


def best_of(ways: Sequence[Match], golds: Sequence[str], text: str) -> dict[str, float]:
    return {way.value: max(compare_texts(HELMS[way], gold, text) for gold in golds) for way in ways}


def compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error} in {pattern!r}") from error


def last_number(text: str) -> Decimal | None:
    """The last number of a text, its commas between thousands left out; None where it has none."""
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def letter_of(text: str, letters: Sequence[str]) -> str | None:
    """The option letter that an answer begins with: "B", "B.", "(B) green" or "**B**"."""
    word = (text.split() or [""])[0].strip(AROUND_LETTERS)
    return word if word in letters else None
