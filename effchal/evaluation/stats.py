"""Bootstrap intervals of a mean, and tests and intervals of a difference of pairs."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

SEED = 0  # of the resampling, so that the same records give the same interval
BLOCK = 1000  # resamples in float64 together
MOST_FLIPPED = 20  # differences of which all signs are tried
ROUNDING = 1e-9  # a mean difference below it is none


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], resamples: int, confidence: float) -> Interval:
    """Percentile bootstrap (Efron 1979) of the mean of independent values, at least one.

    Args:
        resamples: how many; confidence: of the interval, in (0, 1).
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_means(values, resamples), [tail, 1 - tail])
    return Interval(float(np.mean(values)), float(low), float(high))


def exact_interval(share: float, count: int) -> tuple[float, float] | None:
    """The 95 % interval of a share where all or none of `count` answers are right; else None.

    Resampling shows no noise there. Clopper and Pearson 1934.
    """
    bound = 0.025 ** (1 / count)
    return {0.0: (0.0, 1 - bound), 1.0: (bound, 1.0)}.get(share)


def sign_flip_p(differences: Sequence[float], resamples: int) -> float:
    """Two-sided p-value of a mean of zero, by flipping the signs of differences (Fisher 1935).

    All ways to flip them are tried for few differences, else `resamples` random ones, to which
    the observed one counts as one more.
    """
    values = np.array([value for value in differences if value != 0])
    few = len(values) <= MOST_FLIPPED
    if few:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
    else:
        flips = np.random.default_rng(SEED).integers(0, 2, (resamples, len(values)), np.int8)
        sums = (1 - 2 * flips) @ values
    observed = abs(values.sum())
    beyond = int((np.abs(sums) >= observed - 1e-9 * max(1.0, observed)).sum())
    if few:
        return beyond / len(sums)
    return (beyond + 1) / (resamples + 1)


def _resampled_means(values: Sequence[float], resamples: int) -> np.ndarray:
    data = np.asarray(values, dtype=np.float64)
    counts = _resampled_counts(len(data), resamples)
    blocks = (counts[i : i + BLOCK] for i in range(0, resamples, BLOCK))
    return np.concatenate([block.astype(np.float64) @ data for block in blocks]) / len(data)


@functools.lru_cache(maxsize=2)
def _resampled_counts(size: int, resamples: int) -> np.ndarray:
    """(resamples, size) uint8: how often each resample contains each value.

    Cached: all metrics and decodings of an entry use the same resamples.
    """
    generator = np.random.default_rng(SEED)
    counts = np.empty((resamples, size), dtype=np.uint8)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, size, size), minlength=size)
    return counts


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact McNemar test: the two-sided p-value of discordant pairs, binomial with 1/2.

    Args:
        only_a: pairs where only A is right; only_b: where only B is.
    """
    pairs = only_a + only_b
    term = tail = 1  # pairs over k, and their sum so far; math.comb anew would take seconds
    for k in range(min(only_a, only_b)):
        term = term * (pairs - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**pairs)


def paired_proportions(only_a: int, only_b: int, pairs: int, confidence: float) -> Interval:
    """Interval of B's share of right answers minus A's (Bonett and Price 2012, adjusted Wald).

    Unlike the bootstrap's, it has a width where no pair differs, and rarely excludes 0 where
    the exact test finds nothing. `mean` is the observed difference.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    a, b = (only_a + 1) / (pairs + 2), (only_b + 1) / (pairs + 2)
    half = z * math.sqrt((a + b - (b - a) ** 2) / (pairs + 2))
    low, high = max(-1.0, b - a - half), min(1.0, b - a + half)
    return Interval((only_b - only_a) / pairs, low, high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def pairs_needed(mean: float, deviation: float, confidence: float, power: float) -> int | None:
    """About how many pairs show a mean difference of this size, by the normal approximation.

    None where the mean is 0, up to rounding: no number of pairs shows no difference.

    Args:
        deviation: standard deviation of the pairs' differences.
    """
    if abs(mean) < ROUNDING:
        return None
    normal = NormalDist()
    z = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    return max(2, math.ceil((z * deviation / mean) ** 2))
