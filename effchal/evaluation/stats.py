"""Bootstrap intervals of a mean, and of the mean difference of pairs."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SEED = 0  # of the resampling, so that the same records give the same interval
BLOCK = 1000  # resamples in float64 together


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
    data = np.asarray(values, dtype=np.float64)
    counts = _resampled_counts(len(data), resamples)
    blocks = (counts[i : i + BLOCK] for i in range(0, resamples, BLOCK))
    means = np.concatenate([block.astype(np.float64) @ data for block in blocks]) / len(data)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(data.mean()), float(low), float(high))


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


def paired_difference(
    a: Sequence[float], b: Sequence[float], resamples: int, confidence: float
) -> Interval:
    """Interval of the mean of a - b, where a[i] and b[i] come from the same instance."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return mean_interval(differences, resamples, confidence)
