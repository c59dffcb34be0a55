"""Loss curves and samples of training runs, thinned so that many fit on one page."""

import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

from effchal.reporting.collect import Run, number

KINDS = {"loss": "training", "validation_loss": "validation"}


def thin(points: Sequence[dict[str, Any]], most: int, key: str) -> list[dict[str, Any]]:
    """At most `most` points: both ends, and the lowest and highest of equal stretches between.

    Args:
        most: at least 4.
        key: of the value whose extremes stay.
    """
    if len(points) <= most:
        return list(points)
    inner, stretches = range(1, len(points) - 1), (most - 2) // 2
    kept = {0, len(points) - 1}
    for part in range(stretches):
        start, end = (len(inner) * edge // stretches for edge in (part, part + 1))
        stretch = inner[start:end]
        kept |= {
            min(stretch, key=lambda i: points[i][key]),
            max(stretch, key=lambda i: points[i][key]),
        }
    return [points[index] for index in sorted(kept)]


def curves_of(run: Run, label: str) -> list[dict[str, Any]]:
    """Both whole curves: run, kind, and points of step, tokens, hours and loss."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS.values()}
    tokens_at: list[tuple[float, float]] = []  # step, tokens up to it
    for record in run.metrics:
        step, spent = record.get("step"), record.get("spent_s")
        for key, kind in KINDS.items():
            loss = record.get(key)
            if not is_finite(step) or not is_finite(loss):
                continue
            if kind == "training":
                while tokens_at and tokens_at[-1][0] >= step:  # a resumed run did them again
                    tokens_at.pop()
                before = tokens_at[-1][1] if tokens_at else 0.0
                tokens = record.get("tokens")
                tokens_at.append((step, before + (tokens if is_finite(tokens) else 0.0)))
            points = found[kind]
            while points and points[-1]["step"] >= step:
                points.pop()
            point: dict[str, Any] = {"step": step, "tokens": tokens_at[-1][1] if tokens_at else 0.0}
            point["hours"] = spent / 3600 if is_finite(spent) else None
            points.append(point | {"loss": loss})
    curves = [{"run": label, "kind": kind, "points": points} for kind, points in found.items()]
    return [curve for curve in curves if curve["points"]]


def is_finite(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def thinned(curve: dict[str, Any], most: int) -> dict[str, Any]:
    """A curve of at most `most` points, by columns."""
    points = thin(curve["points"], most, "loss")
    return {"run": curve["run"], "kind": curve["kind"]} | by_column(points)


def by_column(points: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    values = {key: [point[key] for point in points] for key in points[0]}
    return {
        key: [rounded(value) if isinstance(value, float) else value for value in column]
        for key, column in values.items()
    }


def samples_of(run: Run, label: str, longest: int) -> list[dict[str, Any]]:
    """Completions of the fixed prompts at each validation: run, step, prompt, completion."""
    return [
        {
            "run": label,
            "step": number(record, "step"),
            "prompt": cut(str(sample.get("prompt", "")), longest),
            "completion": cut(str(sample.get("completion", "")), longest),
        }
        for record in run.metrics
        for sample in dicts(record.get("samples"))
    ]


def dicts(value: Any) -> list[dict[str, Any]]:
    """Those of a list's items that are mappings; [] for anything but a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def cut(text: str, longest: int) -> str:
    """A long text without its middle, which says how much it lacks."""
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest - longest * 2 // 3
    missing = len(text) - head - tail
    return f"{text[:head]} … [{missing:,} characters left out] … {text[len(text) - tail :]}"


def rounded(value: float) -> float:
    """To six significant digits, more than a chart can show."""
    return float(f"{value:.6g}")
