"""Models compared on the instances that all of them answered."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from statistics import fmean, pstdev
from string import ascii_uppercase
from typing import Any

from effchal.config import ConfigError
from effchal.evaluation.names import POOLED, pooled_name
from effchal.evaluation.scored import Scored, ScoredEntry
from effchal.evaluation.stats import (
    Interval,
    holm,
    mcnemar,
    mean_interval,
    paired_proportions,
    pairs_needed,
    sign_flip_p,
)

POWER = 0.8  # of the instances that `needed` estimates
LETTERS = [*ascii_uppercase, *map("".join, product(ascii_uppercase, repeat=2))]  # A, ..., ZZ
MAIN, ALL = "main", "all"  # instead of a metric's name
Pair = tuple[dict[str, float], dict[str, float]]  # metrics of one instance, first and other model


@dataclass(frozen=True)
class Settings:
    metric: str = MAIN
    confidence: float = 0.95
    resamples: int = 10_000


@dataclass(frozen=True)
class Counts:
    """Pairs of a 0/1 metric."""

    both: int
    only_first: int
    only_other: int
    neither: int


@dataclass(frozen=True)
class PairedTest:
    """One metric of a model minus that of the first one, over the same instances."""

    metric: str
    instances: int
    first_score: float
    other_score: float
    difference: Interval
    deviation: float  # standard deviation of the single differences
    counts: Counts | None  # None for a metric that is not 0 or 1
    test: str
    p: float


@dataclass
class Difference:
    """A test of one entry, and what is to be known of its instances."""

    entry: str
    other: str  # letter of the model that is compared with the first
    split: str
    unpaired: int  # instances that only one of the two has
    is_pooled: bool  # several entries together, which no correction counts
    found: PairedTest
    p_corrected: float | None = None  # for the number of comparisons; None where there is one
    # Instances that would show a difference of this size; None where there is no difference.
    needed: int | None = None

    def is_shown(self, confidence: float) -> bool:
        p = self.found.p if self.p_corrected is None else self.p_corrected
        return p <= 1 - confidence


@dataclass(frozen=True)
class Data:
    """The instances of an entry."""

    instances: int
    digest: str  # of their ids and prompts

    @classmethod
    def of(cls, entry: ScoredEntry) -> "Data":
        lines = [f"{id} {each.digest}\n" for id, each in sorted(entry.instances.items())]
        return cls(len(lines), hashlib.sha256("".join(lines).encode()).hexdigest()[:8])


@dataclass
class Comparison:
    """Every model against the first one."""

    models: dict[str, Scored]  # by letter
    settings: Settings
    differences: list[Difference] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # entries that cannot be compared, and why

    def to_dict(self) -> dict[str, Any]:
        models = {
            letter: {"folder": str(each.folder), "model": each.model, "decoding": each.decoding}
            | asdict(each.about)
            | ({"seeds": {k: asdict(v) for k, v in each.seeds.items()}} if each.seeds else {})
            for letter, each in self.models.items()
        }
        return {
            "models": models,
            "first": next(iter(models)),
            "data": {entry: asdict(each) for entry, each in self.data().items()},
            "confidence": self.settings.confidence,
            "power_of_needed": POWER,
            "differences": [self.as_plain(each) for each in self.differences],
            "refused": self.refused,
        }

    def data(self) -> dict[str, Data]:
        """What the first model was asked, by entry."""
        first = next(iter(self.models.values()))
        entries = {each.entry for each in self.differences}
        return {name: Data.of(each) for name, each in first.entries.items() if name in entries}

    def as_plain(self, each: Difference) -> dict[str, Any]:
        values = asdict(each) | {"shown": each.is_shown(self.settings.confidence)}
        if each.found.instances == 1:  # one question gives no interval
            values["found"]["difference"] |= {"low": None, "high": None}
        return values


def compare(models: Sequence[Scored], settings: Settings) -> Comparison:
    """Compare each model with the first one, entry by entry, on the same instances.

    Raises:
        ConfigError: fewer than two models, or no entry can be compared.
    """
    if not 2 <= len(models) <= len(LETTERS):
        raise ConfigError(f"a comparison takes 2 to {len(LETTERS)} models, got {len(models)}")
    first, *others = models
    result = Comparison(dict(zip(LETTERS, models, strict=False)), settings)
    for letter, other in zip(LETTERS[1:], others, strict=False):
        entries = []
        for entry in dict.fromkeys((*first.entries, *other.entries)):
            if entry in first.without | other.without:  # the decoding is none of that entry
                continue
            reason = why_not(first.entries.get(entry), other.entries.get(entry), letter)
            if reason is None:
                entries.append(entry)
            else:
                result.refused.append(f"{entry}: {reason}")
        parts = {entry: [entry] for entry in entries} | pools(entries)
        for title, names in parts.items():
            pairs = [(first.entries[name], other.entries[name]) for name in names]
            result.differences += differences(title, letter, pairs, settings)
    if not result.differences:
        raise ConfigError(f"nothing to compare: {nothing_in_common(result)}")
    correct(result.differences, settings.confidence)
    return result


def nothing_in_common(result: Comparison) -> str:
    if not result.refused:
        return f"no entry has the metric {result.settings.metric}"
    more = len(result.refused) - 3
    return "; ".join(result.refused[:3]) + (f"; and {more} more" if more > 0 else "")


def why_not(first: ScoredEntry | None, other: ScoredEntry | None, letter: str) -> str | None:
    """Why an entry cannot be compared, or None."""
    if first is None or other is None:
        return f"{'A' if first is None else letter} does not have it"
    if first.split != other.split:
        return f"A has its {first.split} split, {letter} its {other.split} split"
    common = first.instances.keys() & other.instances.keys()
    if not common:
        return f"A and {letter} have no instance in common"
    changed = sum(first.instances[id].digest != other.instances[id].digest for id in common)
    if changed:
        return f"{changed} of {len(common)} prompts are not the same in A and {letter}"
    return None


def pools(entries: list[str]) -> dict[str, list[str]]:
    """Entries that are parts of one scenario, by what they are called together."""
    parts = {name: [each for each in entries if each.partition(":")[0] == name] for name in POOLED}
    return {pooled_name(name, len(each)): each for name, each in parts.items() if len(each) > 1}


def differences(
    title: str, letter: str, parts: list[tuple[ScoredEntry, ScoredEntry]], settings: Settings
) -> list[Difference]:
    """A difference for each metric that was asked for, over the instances that have it.

    Args:
        parts: the entry of both models; several for a pooled one.
    """
    pairs: list[Pair] = []
    unpaired = 0
    for a, b in parts:
        common = [id for id in a.instances if id in b.instances]
        pairs += [(a.instances[id].metrics, b.instances[id].metrics) for id in common]
        unpaired += len(a.instances) + len(b.instances) - 2 * len(common)
    first = parts[0][0]
    wanted = first.main_metric if settings.metric == MAIN else settings.metric
    found = []
    for name in dict.fromkeys(name for a, b in pairs for name in a if name in b):
        if wanted in (name, ALL):
            having = [(a, b) for a, b in pairs if name in a and name in b]
            test = paired_test(name, having, settings)
            found.append(Difference(title, letter, first.split, unpaired, len(parts) > 1, test))
    return found


def paired_test(metric: str, pairs: list[Pair], settings: Settings) -> PairedTest:
    """Exact McNemar for a metric that is 0 or 1, flipped signs for any other."""
    a, b = [x[metric] for x, _ in pairs], [y[metric] for _, y in pairs]
    gaps = [y - x for x, y in zip(a, b, strict=True)]
    counts = None
    if {*a, *b} <= {0, 1}:
        right = Counter(zip(a, b, strict=True))
        counts = Counts(right[1, 1], right[1, 0], right[0, 1], right[0, 0])
        only = counts.only_first, counts.only_other
        test, p = "exact McNemar", mcnemar(*only)
        interval = paired_proportions(*only, len(pairs), settings.confidence)
    else:
        test, p = "sign flips", sign_flip_p(gaps, settings.resamples)
        interval = mean_interval(gaps, settings.resamples, settings.confidence)
    scores = fmean(a), fmean(b)
    return PairedTest(metric, len(pairs), *scores, interval, pstdev(gaps), counts, test, p)


def correct(found: list[Difference], confidence: float) -> None:
    """Correct the p-values of each metric for how many entries and models it is compared on."""
    for metric in dict.fromkeys(each.found.metric for each in found):
        family = [each for each in found if each.found.metric == metric and not each.is_pooled]
        if len(family) > 1:
            for each, p in zip(family, holm([each.found.p for each in family]), strict=True):
                each.p_corrected = p
        for each in found:
            if each.found.metric == metric:
                tests = 1 if each.is_pooled else len(family)
                gap, level = each.found.difference.mean, 1 - (1 - confidence) / tests
                each.needed = pairs_needed(gap, each.found.deviation, level, POWER)
