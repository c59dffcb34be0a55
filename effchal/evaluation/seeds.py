"""Several answers to each question, one for each seed of evaluate.seeds: their mean and spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

SEEDED = "sample, seed "  # and the seed: the decoding of one of them
MEAN = "sample, mean of seeds"  # the decoding of all of them together


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds. Fields stand as in results.json."""

    deviation: float  # standard deviation of the seeds' means
    by_seed: dict[str, float]  # means


def mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of one question, each a mean over the seeds that have it."""
    names = dict.fromkeys(name for each in metrics for name in each)
    return {name: fmean(each[name] for each in metrics if name in each) for name in names}


def spread(means: Mapping[str, float]) -> Spread:
    """Of at least two means, by the names of their decodings."""
    by_seed = {name.removeprefix(SEEDED): mean for name, mean in means.items()}
    return Spread(stdev(by_seed.values()), by_seed)
