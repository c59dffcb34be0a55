"""The first thing that the page says: which run is best, by how much, and of how many."""

from collections.abc import Sequence
from typing import Any

from effchal.evaluation.names import short_name
from effchal.reporting.collect import Run
from effchal.reporting.scores import LONGEST, mapping

MOST = 4  # cards


def headline(
    runs: Sequence[Run], rows: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]]
) -> list[dict[str, str]]:
    """Cards of title, run, value and reason: best scores, then lowest validation losses.

    A score that all reach, or that nothing is compared with, comes last.
    """
    losses, (telling, others) = loss_cards(runs, rows), score_cards(scores)
    return (telling[: MOST - min(len(losses), 1)] + losses + others)[:MOST]


def loss_cards(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The lowest validation loss of each group of runs on the same data and base model."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run, row in zip(runs, rows, strict=True):
        if row.get("loss_after") is not None and run.status != "running":
            key = str(run.record.get("data_sha256")), str(run.record.get("base_model"))
            groups.setdefault(key, []).append(row)
    large_first = sorted(groups.values(), key=len, reverse=True)
    return [loss_card(sorted(group, key=lambda row: row["loss_after"])) for group in large_first]


def loss_card(group: Sequence[dict[str, Any]]) -> dict[str, str]:
    best = group[0]
    why = ["the only run on its data and base model"]
    if len(group) > 1:
        gap = group[1]["loss_after"] - best["loss_after"]
        why = [f"lowest of {len(group)} runs on the same data and base model"]
        why.append(f"next is {group[1]['run']}, {gap:.4f} higher")
    if best.get("loss_before") is not None:
        why.append(f"it began at {best['loss_before']:.4f}")
    return {
        "title": "Lowest validation loss",
        "run": best["run"],
        "value": f"{best['loss_after']:.4f}",
        "why": sentence("; ".join(why)) + costs(best),
    }


def costs(row: dict[str, Any]) -> str:
    parts = []
    if row.get("hours") is not None:
        parts.append(f"{row['hours']:.3g} hours")
    if row.get("memory") is not None:
        parts.append(f"{row['memory']:.3g} GiB at most")
    return f" It took {' and '.join(parts)}." if parts else ""


def score_cards(scores: Sequence[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """The best main score of each entry: those that tell models apart, and the others."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for score in scores:
        if score["main"] and score["decoding"] != LONGEST:
            entries.setdefault(score["entry"], []).append(score)
    telling: list[dict[str, str]] = []
    others: list[dict[str, str]] = []
    for entry, found in sorted(entries.items(), key=lambda item: -len(item[1])):
        found.sort(key=lambda score: (-score["score"], score["control"]))
        lower = [each for each in found if each["score"] < found[0]["score"]]
        (telling if lower else others).append(score_card(entry, found, lower))
    return telling, others


def score_card(
    entry: str, found: Sequence[dict[str, Any]], lower: Sequence[dict[str, Any]]
) -> dict[str, str]:
    """The best of an entry's scores and how sure that is."""
    best, equal = found[0], len(found) - len(lower) - 1
    count = int(best["instances"] or 0)
    why = [f"by {best['metric']} on {count:,} instances" if count else f"by {best['metric']}"]
    if equal and not lower:
        why.append("all reach the same")
    if lower:
        why.append(f"next is {of(lower[0])} with {lower[0]['score']:.3f}")
        if overlap(best, lower[0]):
            why.append("their intervals overlap, so the order may be chance")
    if len(found) == 1:
        why.append("nothing to compare it with")
    interval = "" if best.get("low") is None else f" [{best['low']:.3f}, {best['high']:.3f}]"
    title = "Best score" if lower or len(found) == 1 else "No difference"
    return {
        "title": f"{title}: {short_name(entry)}",
        "run": "" if equal and not lower else of(best) + (f" and {equal} more" if equal else ""),
        "value": f"{best['score']:.3f}",
        "interval": interval,
        "why": sentence("; ".join(why)),
    }


def of(score: dict[str, Any]) -> str:
    return f"{score['model']}, {score['decoding']}"


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one.get("low") is None or other.get("high") is None:
        return False
    return bool(one["low"] <= other["high"])


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def pareto(points: Sequence[tuple[float, float]], high_is_better: bool) -> list[bool]:
    """Which points (cost, value) no other one beats by being cheaper or better."""
    sign = -1 if high_is_better else 1
    signed = [(cost, sign * value) for cost, value in points]
    return [
        not any(
            cost <= own[0] and value <= own[1] and (cost, value) != own for cost, value in signed
        )
        for own in signed
    ]


def cost_points(
    rows: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A point for each run, cost and measure: validation loss, and each main score."""
    by_label = {row["run"]: row for row in rows}
    measures: dict[tuple[str, bool], list[tuple[dict[str, Any], float]]] = {}
    for row in rows:
        if row["kind"] == "train" and row.get("loss_after") is not None:
            key = "validation loss (lower is better)", False
            measures.setdefault(key, []).append((row, row["loss_after"]))
    for score in scores:
        trained = by_label.get(mapping(score).get("trained") or "")
        if trained and score["main"] and score["decoding"] != LONGEST:
            name = f"{short_name(score['entry'])}: {score['metric']}, {score['decoding']}"
            measures.setdefault((name, True), []).append((trained, score["score"]))
    found = []
    for (measure, high), pairs in measures.items():
        for cost, title in (("hours", "hours"), ("memory", "peak memory, GiB")):
            costed = [(row, value) for row, value in pairs if row.get(cost) is not None]
            front = pareto([(row[cost], value) for row, value in costed], high)
            found += [
                {"run": row["run"], "measure": measure, "cost": title, "x": row[cost], "y": value}
                | {"front": "on the front" if best else "beaten by another run"}
                for (row, value), best in zip(costed, front, strict=True)
            ]
    return found
