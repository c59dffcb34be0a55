"""Words as NLTK cuts them, which HELM counts, and the BLEU of two texts over these words."""

import functools
import warnings
from pathlib import Path
from typing import Any

from effchal.evaluation.scenarios.types import ScenarioError

# Of n-grams of one length alone, so bleu_4 is the precision of 4-grams, and no mean of four.
WEIGHTS = {"bleu_1": (1, 0, 0, 0), "bleu_4": (0, 0, 0, 1)}


@functools.cache
def tokenizer(nltk_data: Path) -> Any:
    """NLTK's word tokenizer, which splits a text into sentences first.

    Args:
        nltk_data: a folder with tokenizers/punkt_tab. NLTK knows it from then on.
    """
    try:
        import nltk  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ScenarioError(
            "the words of HELM's scores need the package nltk: pip install nltk"
        ) from error
    nltk.data.path.insert(0, str(nltk_data))
    return nltk.word_tokenize


def bleu(name: str, gold: str, prediction: str) -> float:
    """HELM's bleu_1 or bleu_4. Call `tokenizer` before, once."""
    from nltk import word_tokenize
    from nltk.translate.bleu_score import sentence_bleu  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of texts that share no n-gram
        words = [word_tokenize(gold)], word_tokenize(prediction)
        return float(sentence_bleu(*words, weights=WEIGHTS[name]))
