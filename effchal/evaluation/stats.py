"""Intervals by bootstrap: of a mean, and of the mean difference of pairs."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

SEED = 0  # of the resampling, so that the same records give the same interval
BLOCK = 1000  # resamples in float64 together


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def mean_interval(values: Sequence[float], resamples: int, confidence: float) -> Interval:
    """Percentile bootstrap (Efron 1979) of the mean of independent values; at least one."""
    data = np.asarray(values, dtype=np.float64)
    counts = _resampled_counts(len(data), resamples)
    blocks = range(0, resamples, BLOCK)
    means = np.concatenate([counts[i : i + BLOCK].astype(np.float64) @ data for i in blocks]) / len(
        data
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(data.mean()), float(low), float(high))


@functools.lru_cache(maxsize=2)
def _resampled_counts(size: int, resamples: int) -> np.ndarray:
    """(resamples, size) uint8: how often each resample holds each value. Drawn once for all metrics and decodings."""
    generator = np.random.default_rng(SEED)
    counts = np.empty((resamples, size), dtype=np.uint8)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, size, size), minlength=size)
    return counts


def paired_difference(
    a: Sequence[float], b: Sequence[float], resamples: int, confidence: float
) -> Interval:
    """Of the mean of a - b, where a[i] and b[i] come from the same instance."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return mean_interval(differences, resamples, confidence)
