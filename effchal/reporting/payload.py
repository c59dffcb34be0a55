"""Everything that the page, --json, --csv and --png show, as plain values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from effchal import __version__
from effchal.config import ConfigError
from effchal.evaluation.names import short_names
from effchal.reporting.collect import Found, NoRun, Run
from effchal.reporting.curves import curves_of, samples_of, thinned
from effchal.reporting.headline import cost_points, headline
from effchal.reporting.instances import instances_of
from effchal.reporting.labels import differences, in_words, run_labels, sweep_names
from effchal.reporting.plans import configs_of, mixes_of, plans_of
from effchal.reporting.scores import LONGEST, layers_of, name_lines, scored_runs, scores_of
from effchal.reporting.tables import columns_as_json, row_of

T = TypeVar("T")
SCORING = ("evaluate", "helm")
KINDS = {"train": "training run", "evaluate": "evaluation", "helm": "HELM run", "data": "data run"}


@dataclass(frozen=True)
class Detail:
    """How much of long records is shown."""

    points: int = 200  # of one loss curve
    instances: int = 200  # of one evaluation
    characters: int = 1500  # of one text


class Report:
    """What the runs say, read once; how much of it is shown is up to the detail."""

    def __init__(self, found: Found, paths: Sequence[Path]) -> None:
        runs = found.runs
        words = [in_words(run, each) for run, each in zip(runs, differences(runs), strict=True)]
        labels = run_labels(runs, words)
        named = list(zip(labels, runs, strict=True))
        self._evaluations = [(label, run) for label, run in named if run.kind in SCORING]
        self._trained = [(label, run) for label, run in named if run.kind == "train"]
        self._curves = [curve for label, run in self._trained for curve in curves_of(run, label)]
        sweeps = sweep_names(runs)
        rows = [row_of(*each) for each in zip(runs, labels, words, sweeps, strict=True)]
        scores = all_scores(named, rows)
        entries = main_scores_in_rows(rows, scores)
        self._parts: dict[str, Any] = {
            "made": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            "version": __version__,
            "paths": [str(path) for path in paths],
            "summary": summary(runs),
            "headline": headline(runs, rows, scores),
            "columns": columns_as_json(entries),
            "rows": rows,
            "costs": cost_points(runs, rows, scores),
            "scores": scores,
            "layers": all_layers(self._evaluations, scores),
            "mixes": mixes_of([(label, run) for label, run in named if run.mix]),
            "plans": [plan for label, run in self._trained for plan in plans_of(run, label)],
            "configs": configs_of(named),
            "entries": short_names({score["entry"]: None for score in scores}),
        }
        self._found = found

    def data(self, detail: Detail) -> dict[str, Any]:
        """Plain values: every number is finite, what was not measured is None."""
        longest = detail.characters
        samples = [each for label, run in self._trained for each in samples_of(run, label, longest)]
        instances, counts = instances_of(self._evaluations, detail.instances, longest)
        # Last, as reading metrics and instances may find more of them.
        wrong = self._found.damaged + self._found.others
        parts: dict[str, Any] = {
            "detail": vars(detail),
            "curves": [thinned(curve, detail.points) for curve in self._curves],
            "samples": samples,
            "instances": instances,
            "instance_counts": counts,
            "problems": [{"folder": str(each.folder), "reason": each.reason} for each in wrong],
        }
        return finite(self._parts | parts)


def all_layers(
    evaluations: Sequence[tuple[str, Run]], scores: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """How often each premature layer was chosen, by the evaluation and the model that it is of."""
    models = {score["run"]: score["model"] for score in scores}
    return [
        {"run": label, "model": models.get(label, label)} | each
        for label, run in evaluations
        for each in layers_of(run)
    ]


def summary(runs: Sequence[Run]) -> str:
    """How many runs of which kind."""
    counts = {name: sum(run.kind == kind for run in runs) for kind, name in KINDS.items()}
    parts = [f"{n:,} {name}{'' if n == 1 else 's'}" for name, n in counts.items() if n]
    return ", ".join(parts) or "no runs"


def all_scores(named: Sequence[tuple[str, Run]], rows: Sequence[dict[str, Any]]) -> list[Any]:
    """The scores of all evaluations, with the run and the model that each one is of."""
    judged = scored_runs([run for _, run in named])
    found = []
    for index, (label, run) in enumerate(named):
        if run.kind not in SCORING:
            continue
        trained = named[judged[index]][0] if index in judged else None
        rows[index]["scored"] = trained
        head = {"run": label, "trained": trained, "model": trained or label}
        found += [head | score for score in scores_of(run)]
    name_lines(found)
    return found


def report_of(found: Found, paths: Sequence[Path], make: Callable[["Report"], T]) -> T:
    """What `make` makes of the report. A run that cannot be shown is listed with the reason."""
    try:
        return make(Report(found, paths))
    except ConfigError:
        raise
    except Exception:  # files of a foreign program, or damaged in a way that nobody foresaw
        shown = Found(others=list(found.others))
        for run in found.runs:
            try:
                make(Report(Found([run]), paths))
                shown.runs.append(run)
            except Exception as error:
                reason = f"cannot be shown ({type(error).__name__}: {error})"
                shown.others.append(NoRun(run.folder, reason))
        return make(Report(shown, paths))


def main_scores_in_rows(
    rows: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]]
) -> list[tuple[str, str]]:
    """Put the main score of each entry into its rows; returns the new fields with their titles.

    An evaluation shows its own decoding's, without the controls. A training run shows the best
    one that it got by any decoding.
    """
    fields: dict[str, str] = {}
    by_label = {row["run"]: row for row in rows}
    for score in scores:
        if not score["main"]:
            continue
        field = fields.setdefault(score["entry"], f"score_{len(fields)}")
        counts = {
            score["run"]: not score["control"],
            score["trained"]: score["decoding"] != LONGEST,
        }
        for label in (label for label, its_own in counts.items() if label and its_own):
            row = by_label[label]
            row[field] = max(score["score"], row.get(field, -math.inf))
    names = short_names(fields)
    return [(field, names[entry]) for entry, field in fields.items()]


def finite(value: Any) -> Any:
    """The same with None for what JSON cannot say; keys are texts."""
    if isinstance(value, dict):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
