"""Scores of one answer and of a whole run, equal to those of HELM 0.5.16 to the last digit."""

import functools
import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from effchal.evaluation.scenarios.bbq import bias_scores
from effchal.evaluation.scenarios.math_equivalence import math_equiv_chain_of_thought
from effchal.evaluation.scenarios.nltk_words import WEIGHTS, bleu
from effchal.evaluation.scenarios.types import Instance, Scenario, ScenarioError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# HELM's own, with its defects: the point matches any character ("5 6" and "3/4" are one
# number each), and a lone comma is a number too, an empty one.
_NUMBERS = re.compile(r"-?[\d,]+(?:.\d+)?")


def score_completion(scenario: Scenario, instance: Instance, text: str) -> dict[str, float]:
    """Each metric of the scenario for one completion; the best over the correct references.

    Multiple choice by option letter: only an exact letter counts, after stripping ("b" and
    "B." do not). The text of the reference that it stands for is then compared.

    Args:
        text: already cut at the scenario's stop sequences.
    """
    if instance.own is not None:
        return instance.own.grade(text)
    prediction: str = text.strip()
    if instance.letters:
        option = zip(instance.letters, instance.references, strict=True)
        prediction = {name: reference.text for name, reference in option}.get(prediction, "")
    correct = [reference.text for reference in instance.references if reference.correct]
    names = (scenario.settings.main_metric, *scenario.settings.other_metrics)
    return {name: max(_METRICS[name](gold, prediction) for gold in correct) for name in names}


def compare_texts(metric: str, gold: str, prediction: str) -> float:
    """One of HELM's metrics for one right answer."""
    return _METRICS[metric](gold, prediction.strip())


def score_choices(instance: Instance, logprobs: Sequence[float]) -> dict[str, float]:
    """TruthfulQA's multiple-choice scores (Lin et al., arXiv:2109.07958), as DoLa's code has them.

    mc1: whether the best correct choice beats every incorrect one. mc2: the share of
    probability on the correct choices, 0 where every choice is impossible. mc3: the fraction
    of correct choices that beat every incorrect one. A tie beats nothing.

    Args:
        logprobs: in nats, summed over the tokens of each choice; -inf is allowed.

    Raises:
        ValueError: not one log-probability for each choice, or NaN.
    """
    if len(logprobs) != len(instance.choices) or any(math.isnan(value) for value in logprobs):
        raise ValueError(
            f"instance {instance.id} needs {len(instance.choices)} numbers, got {list(logprobs)}"
        )
    marked = list(zip(logprobs, instance.correct_choices, strict=True))
    correct = [value for value, is_correct in marked if is_correct]
    incorrect = [value for value, is_correct in marked if not is_correct]
    assert instance.best_choice is not None  # every instance with choices has one
    highest = max(incorrect)
    return {
        "mc1": float(logprobs[instance.best_choice] > highest),
        "mc2": _share(correct, incorrect),
        "mc3": sum(value > highest for value in correct) / len(correct),
    }


def aggregate_extra(scenario: Scenario, records: list[tuple[Instance, str]]) -> dict[str, float]:
    """Metrics that are not a mean over instances: BBQ's and SAMSum's; empty for other entries.

    Args:
        records: instances with their completions.
    """
    if scenario.run_metric is not None:
        return scenario.run_metric([text for _, text in records])
    return bias_scores(records) if any(instance.tags for instance in scenario.instances) else {}


def _share(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Probability of the correct ones among all, by log-sum-exp."""
    highest = max(*correct, *incorrect)
    if highest == -math.inf:
        return 0.0
    mass = math.fsum(math.exp(value - highest) for value in correct)
    return mass / (mass + math.fsum(math.exp(value - highest) for value in incorrect))


def _exact_match(gold: str, prediction: str) -> float:
    return float(bool(prediction) and prediction.strip() == gold.strip())


def _quasi_exact_match(gold: str, prediction: str) -> float:
    return float(bool(prediction) and _normal(prediction) == _normal(gold))


def _prefix_exact_match(gold: str, prediction: str) -> float:
    return float(bool(prediction) and prediction.strip().startswith(gold.strip()))


def _quasi_prefix_exact_match(gold: str, prediction: str) -> float:
    return float(bool(prediction) and _normal(prediction).startswith(_normal(gold)))


def _exact_match_indicator(gold: str, prediction: str) -> float:
    """Exact match of what follows the last space."""
    return _exact_match(gold.rpartition(" ")[2].strip(), prediction.rpartition(" ")[2].strip())


def _final_number_exact_match(gold: str, prediction: str) -> float:
    return _exact_match(_final_number(gold), _final_number(prediction))


def _final_number(text: str) -> str:
    found = _NUMBERS.findall(text)
    return found[-1].replace(",", "") if found else ""


def _normal(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _rouge(kind: str, gold: str, prediction: str) -> float:
    """HELM strips braces from summaries, which changes nothing: letters and digits count alone."""
    return float(_rouge_scorer(kind).score(gold, prediction)[kind].fmeasure)


@functools.cache
def _rouge_scorer(kind: str) -> Any:
    return import_rouge().RougeScorer([kind], use_stemmer=True)


def import_rouge() -> Any:
    """The library that HELM takes ROUGE from, too. Few entries need it."""
    try:
        from rouge_score import rouge_scorer
    except ModuleNotFoundError as error:
        raise ScenarioError(
            "ROUGE needs the package rouge-score: pip install rouge-score"
        ) from error
    return rouge_scorer


_METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": _exact_match,
    "quasi_exact_match": _quasi_exact_match,
    "prefix_exact_match": _prefix_exact_match,
    "quasi_prefix_exact_match": _quasi_prefix_exact_match,
    "exact_match_indicator": _exact_match_indicator,
    "final_number_exact_match": _final_number_exact_match,
    "math_equiv_chain_of_thought": math_equiv_chain_of_thought,
    "rouge_1": functools.partial(_rouge, "rouge1"),
    "rouge_2": functools.partial(_rouge, "rouge2"),
    "rouge_l": functools.partial(_rouge, "rougeL"),
    **{name: functools.partial(bleu, name) for name in WEIGHTS},
}
