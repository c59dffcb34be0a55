"""Loss curves and samples of training runs, thinned so that many fit on one page."""

from collections.abc import Sequence
from typing import Any

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


def curves_of(run: Run, label: str, most: int) -> list[dict[str, Any]]:
    """Both curves by columns: run, kind, and lists of step, tokens, hours and loss."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS.values()}
    tokens_at: list[tuple[float, float]] = []  # step, tokens up to it
    for record in run.metrics:
        step, spent = number(record, "step"), number(record, "spent_s")
        for key, kind in KINDS.items():
            loss = number(record, key)
            if step is None or loss is None:
                continue
            if kind == "training":
                while tokens_at and tokens_at[-1][0] >= step:  # a resumed run did them again
                    tokens_at.pop()
                before = tokens_at[-1][1] if tokens_at else 0.0
                tokens_at.append((step, before + (number(record, "tokens") or 0.0)))
            points = found[kind]
            while points and points[-1]["step"] >= step:
                points.pop()
            hours = None if spent is None else rounded(spent / 3600)
            tokens = tokens_at[-1][1] if tokens_at else 0.0
            point = {"step": step, "tokens": tokens, "hours": hours, "loss": rounded(loss)}
            points.append(point)
    return [
        {"run": label, "kind": kind} | by_column(thin(points, most, "loss"))
        for kind, points in found.items()
        if points
    ]


def by_column(points: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [point[key] for point in points] for key in points[0]}


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
