"""The finals of the 2023 contest: the published tables, and the formula behind them."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TRACKS = ("4090", "a100")
FILE = Path(__file__).with_name("finals_2023.json")
SIDES = {"open": 1 / 3, "hidden": 2 / 3}  # share of the final score


@dataclass(frozen=True)
class ContestScenario:
    """One scenario of the contest and its published numbers, an entry of the finals each."""

    name: str
    side: str  # a key of SIDES
    instances: int | None  # of a metric; None where the published values do not show it
    metrics: dict[str, Floats]  # (N,) by metric, the main one first; NaN is missing
    lower_is_better: frozenset[str]
    mean_win_rates: Floats  # (N,), as published

    def mean_win_rate(self, values: dict[str, Floats]) -> Floats:
        """Mean over the metrics in `values`, (..., N) each, of the field's win rates."""
        rates = [win_rates(each, name in self.lower_is_better) for name, each in values.items()]
        return np.mean(rates, axis=0)


@dataclass(frozen=True)
class Finals:
    """The published table of a track."""

    track: str
    source: str
    entries: tuple[str, ...]
    scenarios: tuple[ContestScenario, ...]
    scores: dict[str, Floats]  # (N,) for open, hidden and final, as published

    def of_side(self, side: str) -> list[ContestScenario]:
        return [each for each in self.scenarios if each.side == side]

    def recomputed(self) -> dict[str, Floats]:
        """The published columns from the published metrics: mean win rates and scores."""
        rates = {each.name: each.mean_win_rate(each.metrics) for each in self.scenarios}
        sides = {
            side: geometric_mean([rates[each.name] for each in self.of_side(side)])
            for side in SIDES
        }
        return rates | sides | {"final": final_score(sides)}

    def published(self) -> dict[str, Floats]:
        return {each.name: each.mean_win_rates for each in self.scenarios} | self.scores


def win_rates(values: Floats, lower_is_better: bool = False) -> Floats:
    """Share of the field that each entry beats on a metric: (worse + 1/k for a tie of k) / N.

    A missing value counts as 0, and as the worst of all where lower is better.

    Args:
        values: (..., N), NaN where missing.

    Returns:
        (..., N), at most (N - 1) / N.
    """
    known = -np.nan_to_num(values, nan=np.inf, posinf=np.inf) if lower_is_better else values
    known = np.nan_to_num(known, nan=0.0, neginf=-np.inf)
    own, other = known[..., :, None], known[..., None, :]
    worse, tied = (own > other).sum(-1), (own == other).sum(-1)
    return (worse + np.where(tied > 1, 1 / tied, 0.0)) / known.shape[-1]


def geometric_mean(columns: list[Floats]) -> Floats:
    """Of the columns, entry by entry; one zero makes it zero."""
    product = np.prod(np.stack(columns), axis=0)
    return np.asarray(product ** (1 / len(columns)), dtype=np.float64)


def final_score(sides: dict[str, Floats]) -> Floats:
    total = sum(share * sides[side] for side, share in SIDES.items())
    return np.asarray(total, dtype=np.float64)


def places(scores: Floats) -> npt.NDArray[np.int64]:
    """1 for the highest of (..., N) scores; equal ones share the better place."""
    return (scores[..., None, :] > scores[..., :, None]).sum(-1) + 1


@functools.lru_cache
def load_finals(track: str) -> Finals:
    """The published table of a track, one of TRACKS."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    rows = content["tracks"][track]
    scenarios = tuple(_scenario(name, about, rows) for name, about in content["scenarios"].items())
    return Finals(
        track,
        f"{content['source']} @ {content['commit']}, {content['paper']}",
        tuple(row["entry"] for row in rows),
        scenarios,
        {name: np.array([row["scores"][name] for row in rows]) for name in (*SIDES, "final")},
    )


def _scenario(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> ContestScenario:
    metrics = {
        metric: np.array([row["metrics"][name][metric] for row in rows], dtype=np.float64)
        for metric in rows[0]["metrics"][name]
    }
    return ContestScenario(
        name,
        about["side"],
        about["instances"],
        metrics,
        frozenset(about["lower_is_better"]),
        np.array([row["mean_win_rates"][name] for row in rows]),
    )
