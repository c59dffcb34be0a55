"""Our runs in the published field of the 2023 contest: places, and how much of them is noise."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effchal.config import ConfigError
from effchal.reporting.challenge_text import (
    differences_table,
    field_notes,
    notes_of,
    published_table,
    table_of,
)
from effchal.reporting.collect import collect
from effchal.reporting.contest_scores import (
    ContestScores,
    Instance,
    MetricScores,
    main_scores,
    scores_of,
)
from effchal.reporting.finals import (
    SIDES,
    TRACKS,
    ContestScenario,
    Finals,
    Floats,
    final_score,
    geometric_mean,
    load_finals,
    places,
)
from effchal.reporting.standing import Difference, Measured, Missing, Place, Span, Standing
from effchal.tracking.text_tables import as_text

RESAMPLES = 1000
Scores = dict[str, dict[Instance, float]]
WIDTH = 100  # of a line of text
SEED = 0  # of the resampling, so that the same runs give the same intervals


@dataclass
class ChallengeReport:
    """Every run in the field of a track's finalists, each alone with them."""

    finals: Finals
    standings: list[Standing]
    differences: list[Difference]  # of every later run to the first
    unpaired: list[str]  # how many instances of which run have another prompt than the first's
    left_out: list[str]  # folders without a score, and why

    def text(self) -> str:
        """For the terminal."""
        finals = self.finals
        parts = [f"Track {finals.track} of 2023: {len(finals.entries)} finalists"]
        for each in self.standings:
            parts += standing_parts(each)
        if self.differences or self.unpaired:
            parts.append(f"Differences to {self.standings[0].scores.name}")
            parts += [as_text(differences_table(self.differences))] if self.differences else []
            parts.append("\n".join(f"- {each}" for each in self.unpaired))
        parts.append("\n".join(f"- left out: {each}" for each in self.left_out))
        parts += ["The finalists, without these runs", as_text(published_table(finals))]
        parts.append("\n".join(field_notes(finals)))
        return _wrapped_notes("\n\n".join(part for part in parts if part))

    def places(self) -> str:
        """The runs' own tables and notes alone."""
        parts = [f"Track {self.finals.track} of 2023: {len(self.finals.entries)} finalists"]
        parts += [part for each in self.standings for part in standing_parts(each)]
        return _wrapped_notes("\n\n".join(parts))

    def to_json(self) -> dict[str, Any]:
        """For programs: the standings, and the published table as recomputed."""
        finals = self.finals
        return {
            "track": finals.track,
            "source": finals.source,
            "finalists": list(finals.entries),
            "recomputed": {name: each.tolist() for name, each in finals.recomputed().items()},
            "runs": [each.to_json() for each in self.standings],
            "differences": [asdict(each) for each in self.differences],
            "unpaired": self.unpaired,
            "left_out": self.left_out,
        }


def standing_parts(standing: Standing) -> list[str]:
    title = f"{standing.scores.name} ({standing.scores.decoding})"
    return [title, as_text(table_of(standing)), "\n".join(notes_of(standing))]


def _wrapped_notes(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(_wrapped(line) if line.startswith("- ") else line for line in lines) + "\n"


def _wrapped(note: str) -> str:
    return textwrap.fill(
        note, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def challenge_report(
    paths: Sequence[Path], track: str = "4090", decoding: str = "greedy"
) -> ChallengeReport:
    """The evaluations and HELM runs in or below the paths, in the field of a track's finalists.

    Without paths: the published table alone, recomputed.

    Raises:
        ConfigError: no such track or folder, or no run with a score of the contest.
    """
    if track not in TRACKS:
        raise ConfigError(f"--track {track}: the tracks are {' and '.join(TRACKS)}")
    finals, found = load_finals(track), collect(paths)
    runs = [run for run in found.runs if run.kind in ("evaluate", "helm")]
    scored = [scores_of(run, decoding) for run in runs]
    empty = [f"{each.name}: {'; '.join(each.left_out)}" for each in scored if not each.scenarios]
    standings = [standing_of(each, finals) for each in scored if each.scenarios]
    if paths and not standings:
        why = "\n  ".join(empty or ["no evaluation and no HELM run is there"])
        raise ConfigError(
            f"no score of the contest in {', '.join(map(str, paths))}:\n  {why}\n"
            "  evaluate some of mmlu, truthful_qa, big_bench, gsm, bbq first"
        )
    pairs = [(standings[0].scores, each.scores) for each in standings[1:]]
    differences = [found for pair in pairs for found in differences_of(*pair)]
    unpaired = [note for pair in pairs for note in unpaired_of(*pair)]
    return ChallengeReport(finals, standings, differences, unpaired, empty)


def standing_of(scores: ContestScores, finals: Finals) -> Standing:
    """A run's places among the finalists, whose metrics stay as published."""
    generator = np.random.default_rng(SEED)
    standing = Standing(scores, len(finals.entries) + 1)
    rates: dict[str, tuple[Floats, Floats]] = {}  # by scenario: of the field, and resampled
    for scenario in finals.scenarios:
        if scenario.name in scores.scenarios:
            found = _measured(scenario, scores.scenarios[scenario.name], generator)
            standing.scenarios[scenario.name], rates[scenario.name] = found
    sides: dict[str, tuple[Floats, Floats]] = {}
    for side in SIDES:
        names = [each.name for each in finals.of_side(side)]
        missing = [name for name in names if name not in rates]
        if not missing:
            point, many = zip(*(rates[name] for name in names), strict=True)
            sides[side] = geometric_mean(list(point)), geometric_mean(list(many))
        standing.sides[side] = Missing(missing) if missing else _place(*sides[side])
    if len(sides) == len(SIDES):
        finals_of = [final_score({side: pair[i] for side, pair in sides.items()}) for i in (0, 1)]
        standing.sides["final"] = _place(*finals_of)
    else:
        standing.sides["final"] = Missing([side for side in SIDES if side not in sides])
    return standing


def _measured(
    scenario: ContestScenario, scores: dict[str, MetricScores], generator: np.random.Generator
) -> tuple[Measured, tuple[Floats, Floats]]:
    """A scenario of a run, and the mean win rates of its field and of its resamples."""
    known = {name: scores[name] for name in scenario.metrics if name in scores}
    field, resampled = _fields(scenario, known, generator)
    rates = scenario.mean_win_rate(field), scenario.mean_win_rate(resampled)
    main = main_scores(known)
    spans = {
        name: Span(float(field[name][-1]), *_interval(resampled[name][:, -1])) for name in known
    }
    missing = [name for name in scenario.metrics if name not in known]
    measured = Measured(spans, main.instances, list(main.by_entry), missing, _place(*rates))
    return measured, rates


def _fields(
    scenario: ContestScenario, known: dict[str, MetricScores], generator: np.random.Generator
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """By metric: the values of all finalists and ours, (N + 1,) and (RESAMPLES, N + 1)."""
    counts = _counts(main_scores(known), generator)
    field, resampled = {}, {}
    for name, ours in known.items():
        rivals = scenario.metrics[name]
        field[name] = np.append(rivals, ours.mean)
        many = np.broadcast_to(rivals, (RESAMPLES, len(rivals)))
        if scenario.instances is not None:
            drawn = generator.binomial(scenario.instances, np.nan_to_num(many))
            many = np.where(np.isnan(many), np.nan, drawn / scenario.instances)
        resampled[name] = np.column_stack([many, ours.resampled(counts)])
    return field, resampled


def _counts(scores: MetricScores, generator: np.random.Generator) -> dict[str, Floats]:
    """How often each resample draws each instance, entry by entry."""
    return {
        entry: generator.multinomial(
            len(each), np.full(len(each), 1 / len(each)), RESAMPLES
        ).astype(np.float64)
        for entry, each in scores.by_entry.items()
    }


def _interval(values: npt.NDArray[Any]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _place(point: Floats, resampled: Floats) -> Place:
    """Our place, the last of the field, with its interval."""
    low, high = _interval(places(resampled)[:, -1])
    return Place(float(point[-1]), int(places(point)[-1]), int(low), int(high), len(point))


def differences_of(first: ContestScores, other: ContestScores) -> list[Difference]:
    """The main metric of the other run less the first's, paired by instance, by scenario."""
    generator, found = np.random.default_rng(SEED), []
    for scenario, a, b in _shared(first, other):
        gaps = {
            entry: {key: b[entry][key] - score for key, score in each.items() if key in b[entry]}
            for entry, each in a.items()
            if entry in b
        }
        paired = MetricScores({entry: each for entry, each in gaps.items() if each})
        if paired.instances:
            low, high = _interval(paired.resampled(_counts(paired, generator)))
            values = [gap for each in paired.by_entry.values() for gap in each.values()]
            better, worse = sum(gap > 0 for gap in values), sum(gap < 0 for gap in values)
            span = (paired.mean, low, high, better, worse)
            found.append(Difference(other.name, scenario, paired.instances, *span))
    return found


def unpaired_of(first: ContestScores, other: ContestScores) -> list[str]:
    """By scenario, how many instances have the same id in both runs but another prompt."""
    notes = []
    for scenario, a, b in _shared(first, other):
        count = 0
        for entry in a.keys() & b.keys():
            only_a, only_b = a[entry].keys() - b[entry].keys(), b[entry].keys() - a[entry].keys()
            count += len({each.id for each in only_a} & {each.id for each in only_b})
        if count:
            have = "instance has" if count == 1 else "instances have"
            notes.append(
                f"{other.name}, {scenario}: {count} {have} another prompt than in {first.name}, "
                "so not compared"
            )
    return notes


def _shared(first: ContestScores, other: ContestScores) -> Iterator[tuple[str, Scores, Scores]]:
    """The scenarios that both runs have, with the main scores of each by entry and instance."""
    for scenario in first.scenarios:
        if scenario in other.scenarios:
            a, b = (main_scores(each.scenarios[scenario]) for each in (first, other))
            yield scenario, a.by_entry, b.by_entry
