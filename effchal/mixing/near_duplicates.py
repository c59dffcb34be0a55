"""Near-duplicates by MinHash: candidates by bands of the signatures, verified by their texts.

Two rows are as similar as their sets of phrases of five words (Jaccard's measure; a shorter text
is one phrase). A row is compared with the rows that stay, those with the longest answers first, and
goes if one of them is similar enough. So a chain of similar rows does not go as a whole.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import lru_cache
from itertools import chain

import numpy as np

from effchal.mixing.example import Example
from effchal.mixing.words import joined_hashes, parts, phrase_hashes
from effchal.tracking.terminal import progress

PHRASE_WORDS = 5
PERMUTATIONS = 128
RECALL = 0.99  # at least, of pairs that are just similar enough
# A row is compared with so many others at most, those that share most bands first; and of those
# that share one band, no more are remembered.
COMPARED, REMEMBERED = 20, 100
SEED = 18


def shared_text(example: Example) -> str:
    """What rows are compared by. A system turn is often the same in all rows of a source."""
    return "\n".join(turn.content for turn in example.turns if turn.role != "system")


def answer_length(example: Example) -> int:
    """Characters of all answers: of two near-duplicates, the longer one stays."""
    answers = (turn for turn in example.turns if turn.role in ("assistant", "text"))
    return sum(len(turn.content) for turn in answers)


def bands_of(threshold: float) -> tuple[int, int]:
    """Bands and numbers in each: the longest bands that find RECALL of the pairs at the threshold.

    Of a pair of similarity s, a band of r numbers is equal with probability s^r.
    """
    for rows in range(PERMUTATIONS, 0, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def signatures(texts: list[str], threshold: float) -> np.ndarray:
    """(n, bands) uint32: hashes of the bands of each text's MinHash."""
    bands, rows = bands_of(threshold)
    draw = np.random.default_rng(SEED)
    factors, terms = draw.integers(0, 2**32, (2, bands * rows), np.uint32)
    factors |= np.uint32(1)
    weights = draw.integers(0, 2**63, rows, np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.zeros((len(texts), bands), np.uint32)
    together = (texts[part] for part in parts(map(len, texts)))
    for index, phrases in enumerate(chain.from_iterable(map(_phrases, together))):
        low = phrases.astype(np.uint32)[:, None]  # (phrases, 1)
        minima = (low * factors + terms).min(0)  # (bands * rows,): one permutation each
        hashes = (minima.reshape(bands, rows) * weights).sum(1, np.uint64)
        found[index] = hashes >> np.uint64(32)
    return found


def _phrases(texts: list[str]) -> list[np.ndarray]:
    """Of each text, the hashes of its phrases; a text without words is one phrase as it stands."""
    together, begins = joined_hashes(tuple(texts))
    found = []
    for text, hashes in zip(texts, np.split(together, begins[1:-1]), strict=True):
        if not len(hashes):
            hashes = np.array([zlib.crc32(text.encode())], np.uint64)
        found.append(phrase_hashes(hashes, min(PHRASE_WORDS, len(hashes))))
    return found


def near_duplicates(
    signatures: np.ndarray, lengths: np.ndarray, threshold: float, texts_at: Callable[[int], str]
) -> dict[int, tuple[int, float]]:
    """Rows to leave out, each with the row that stays for it and their true similarity.

    Args:
        signatures: (n, bands), of the texts, for the same threshold.
        lengths: (n,), of the answers; the longest stays, of equals the first.
        threshold: Jaccard similarity of the phrases, in (0, 1].
        texts_at: the text of a row; asked for candidates alone.
    """

    @lru_cache(maxsize=4096)
    def phrases_at(row: int) -> frozenset[int]:
        return frozenset(_phrases([texts_at(row)])[0].tolist())

    dropped: dict[int, tuple[int, float]] = {}
    kept: dict[int, list[int]] = defaultdict(list)  # rows that stay, by bucket
    buckets = _buckets(signatures)
    order = sorted(buckets, key=lambda row: (-lengths[row], row))
    with progress("comparing rows that may be near-duplicates", len(order), "rows") as advance:
        for done, row in enumerate(order):
            advance(done)
            shared = Counter(other for bucket in buckets[row] for other in kept[bucket])
            likely = [other for other, _ in shared.most_common(COMPARED)]
            similar = [(_jaccard(phrases_at(row), phrases_at(other)), -other) for other in likely]
            if similar and max(similar)[0] >= threshold:
                dropped[row] = (-max(similar)[1], max(similar)[0])
                continue
            for bucket in buckets[row]:
                if len(kept[bucket]) < REMEMBERED:
                    kept[bucket].append(row)
    return dropped


def _buckets(signatures: np.ndarray) -> dict[int, list[int]]:
    """Of each row that shares a band with another one, the numbers of the shared bands."""
    found: dict[int, list[int]] = defaultdict(list)
    count = 0
    for band in signatures.T:
        order = np.argsort(band, kind="stable")
        same = np.diff(band[order]) == 0
        shared = np.append(same, False) | np.insert(same, 0, False)
        numbers = count + np.cumsum(~np.insert(same, 0, False))
        for row, number in zip(order[shared].tolist(), numbers[shared].tolist(), strict=True):
            found[row].append(number)
        count += len(band)
    return found


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)
