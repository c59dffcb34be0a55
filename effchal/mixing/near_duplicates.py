"""Near-duplicates by MinHash: candidates by bands of the signatures, verified by their texts."""

from collections.abc import Callable

import numpy as np

PERMUTATIONS = 128  # numbers in a signature


def shared_text(example) -> str:
    """What two rows are compared by: all turns but the system's."""
    raise NotImplementedError


def answer_length(example) -> int:
    """Characters of all answers: of two near-duplicates, the longer one stays."""
    raise NotImplementedError


def signatures(texts: list[str], permutations: int = PERMUTATIONS) -> np.ndarray:
    """(n, permutations) uint32: the MinHash of each text's phrases of five words."""
    raise NotImplementedError


def near_duplicates(
    signatures: np.ndarray, lengths: np.ndarray, threshold: float, texts_at: Callable[[int], str]
) -> dict[int, tuple[int, float]]:
    """Rows to leave out, each with the row that stays for it and their true similarity.

    Args:
        signatures: (n, P), of the texts.
        lengths: (n,), of the answers; the longest stays, of equals the first.
        threshold: Jaccard similarity of the phrases, in (0, 1].
        texts_at: the text of a row; asked for candidates alone.
    """
    raise NotImplementedError
