"""Intervals by bootstrap: of a mean, and of the mean difference of pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

SEED = 0  # of the resampling, so that the same records give the same interval
AT_ONCE = 1 << 22  # indices in memory together


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
    generator = np.random.default_rng(SEED)
    rows = max(1, AT_ONCE // len(data))
    means = np.concatenate(
        [
            data[generator.integers(0, len(data), size=(min(rows, resamples - done), len(data)))].mean(axis=1)
            for done in range(0, resamples, rows)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(data.mean()), float(low), float(high))


def paired_difference(a: Sequence[float], b: Sequence[float], resamples: int, confidence: float) -> Interval:
    """Of the mean of a - b, where a[i] and b[i] come from the same instance."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return mean_interval(differences, resamples, confidence)
