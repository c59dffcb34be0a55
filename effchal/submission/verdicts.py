"""A reproduction against what a hand-in states: one verdict for each thing that is compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.evaluation.results import Record
from effchal.evaluation.stats import Interval, exact_interval
from effchal.runs import read_json_lines
from effchal.tracking.ending import NOT_MEASURED
from effchal.tracking.words import duration

ROUNDING = 1e-6  # of scores: other kernels round in another order
Facts = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    what: str
    there: str  # as handed in
    here: str
    ok: bool | None  # None: told, and not judged


def wider_interval(summary: Facts, metric: str, instances: int) -> Interval | None:
    """The interval of a score; None for that of one question, which says nothing.

    It is the exact interval where all answers are right or all are wrong.

    Args:
        summary: of one decoding, in submission.json.
        instances: of the entry.
    """
    found, count = summary["metrics"][metric], summary["counts"].get(metric, instances)
    if count < 2:
        return None
    is_flat = found["low"] == found["high"]
    exact = exact_interval(found["mean"], count) if is_flat else None
    return Interval(found["mean"], *(exact or (found["low"], found["high"])))


def of_training(there: Facts, here: Facts, limit_s: float) -> list[Finding]:
    """Data and time are judged; steps, losses and bytes may differ from machine to machine.

    Args:
        there: `training` of submission.json; here: the same of the new run.
        limit_s: what the new run was allowed.
    """
    stated = f"{duration(there['spent_s'])} of {duration(there['limit_s'])}"
    spent = f"{duration(here['spent_s'])} of {duration(limit_s)}"
    return [
        _same("data", there["data_sha256"], here["data_sha256"]),
        Finding("time", stated, spent, here["spent_s"] <= limit_s),
        _told("status", there["status"], here["status"]),
        _told("steps", *(f"{each['step']} of {each['steps_planned']}" for each in (there, here))),
        _told("validation loss", *(_number(each["validation_loss"]) for each in (there, here))),
        _told("adapter", *(each["adapter_sha256"][:16] for each in (there, here))),
    ]


def of_scores(there: Facts, here: Facts) -> list[Finding]:
    """Whether the main score of each entry lies in the interval that the hand-in states.

    Args:
        there, here: `evaluation` of submission.json, and the same of the new bundle.
    """
    findings = []
    for entry, stated in there["entries"].items():
        metric = stated["main_metric"]
        for decoding, summary in stated["decodings"].items():
            if metric not in summary["metrics"]:
                continue
            what = f"{entry}, {metric}, {decoding}"
            interval = wider_interval(summary, metric, stated["instances"])
            mean = summary["metrics"][metric]["mean"]
            found = _score(here, entry, decoding, metric)
            if interval is None:
                findings.append(_told(what, _number(mean), _number(found)))
                continue
            text = f"{mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
            ok = found is not None and (
                interval.low - ROUNDING <= found <= interval.high + ROUNDING
            )
            findings.append(Finding(what, text, _number(found), ok))
    return findings


def of_adapter(stated: str, found: str) -> Finding:
    """The adapter of the folder is the one that its training left."""
    return _same("adapter of the folder", stated, found)


def of_answers(there: Path, here: Path) -> Finding:
    """How many answers are the same, to the letter: it tells more than scores of a few questions.

    Args:
        there, here: files of an evaluation's instances.
    """
    stated, found = _answers(there), _answers(here)
    same = sum(found.get(key) == answer for key, answer in stated.items())
    return _told("answers to the letter", str(len(stated)), f"{same} the same")


def _answers(file: Path) -> dict[tuple[str, str, str], str | int]:
    """By entry, instance and decoding."""
    records = map(Record.from_json, read_json_lines(file))
    return {
        (each.entry, each.key, decoding): answer.answer
        for each in records
        for decoding, answer in each.decodings.items()
    }


def of_conformance(there: Facts, here: Facts) -> Finding:
    """A rule that the hand-in keeps must be kept again."""
    broken = [name for name in here["broken"] if name not in there["broken"]]
    texts = [f"{each['kept']} kept, {len(each['broken'])} broken" for each in (there, here)]
    names = f" ({', '.join(broken)})" if broken else ""
    return Finding("rules of the server", texts[0], texts[1] + names, not broken)


def of_base_model(there: Facts, here: Facts) -> Finding:
    """The same weights: by digest where both are known, by name and commit otherwise."""
    if there["fingerprint"] and here["fingerprint"]:
        return _same("base model", there["fingerprint"], here["fingerprint"])
    named = [f"{each['name']} {each['revision'] or ''}".strip() for each in (there, here)]
    return _same("base model", *named)


def of_versions(there: Facts, here: Facts) -> Finding:
    others = [name for name in there | here if there.get(name) != here.get(name)]
    texts = [
        ", ".join(f"{name} {each.get(name, 'none')}" for name in others) for each in (there, here)
    ]
    return _told("versions", texts[0] or "the same", texts[1] or "the same")


def _score(facts: Facts, entry: str, decoding: str, metric: str) -> float | None:
    found = facts["entries"].get(entry, {}).get("decodings", {}).get(decoding, {})
    score = found.get("metrics", {}).get(metric)
    return None if score is None else score["mean"]


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _same(what: str, there: str, here: str) -> Finding:
    return Finding(what, there[:24], here[:24], there == here)


def _told(what: str, there: str, here: str) -> Finding:
    return Finding(what, there, here, None)
