"""The first thing that the page says: which run is best, by how much, and of how many."""

from collections.abc import Sequence
from typing import Any

from effchal.evaluation.names import short_names
from effchal.evaluation.stats import exact_interval
from effchal.reporting.collect import Run
from effchal.reporting.scores import LONGEST, mapping

MOST = 4  # cards


def headline(
    runs: Sequence[Run], rows: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Cards of title, run, value and reason: best scores, then lowest validation losses.

    A score that all reach, or that nothing is compared with, comes last.
    """
    losses, (telling, others) = loss_cards(runs, rows), score_cards(scores)
    return (telling[: MOST - min(len(losses), 1)] + losses + others)[:MOST]


def loss_cards(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lowest validation loss of each group of runs on the same data and base model.

    Where a run's record does not tell them, the run is in no group.
    """
    return [loss_card(group) for group in comparable(runs, rows)]


def comparable(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows whose validation losses can be compared, lowest first; large groups first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run, row in zip(runs, rows, strict=True):
        if row.get("loss_after") is not None and run.status != "running":
            data, base = run.record.get("data_sha256"), run.record.get("base_model")
            base = base or run.config.get("model.name")
            if data and base:
                groups.setdefault((str(data), str(base)), []).append(row)
    lowest_first = [sorted(each, key=lambda row: row["loss_after"]) for each in groups.values()]
    return sorted(lowest_first, key=len, reverse=True)


def loss_card(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    best = group[0]
    why = ["the only run on its data and base model"]
    if len(group) > 1:
        gap = group[1]["loss_after"] - best["loss_after"]
        why = [f"lowest of {len(group)} runs on the same data and base model"]
        why.append(f"next is {group[1]['run']}, {gap:.4f} higher")
    if best.get("loss_before") is not None:
        why.append(f"it began at {best['loss_before']:.4f}")
    return {
        "title": "Lowest validation loss" if len(group) > 1 else "Validation loss",
        "run": best["run"],
        "best": best["run"] if len(group) > 1 else None,
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
        if score["main"] and score["decoding"] != LONGEST and not score.get("again"):
            entries.setdefault(score["entry"], []).append(score)
    names = short_names(entries)
    telling: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for entry, found in sorted(entries.items(), key=lambda item: -len(item[1])):
        found.sort(key=lambda score: (-score["score"], score["control"]))
        lower = [each for each in found if each["score"] < found[0]["score"]]
        (telling if lower else others).append(score_card(names[entry], found, lower))
    return telling, others


def score_card(
    name: str, found: Sequence[dict[str, Any]], lower: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The best of an entry's scores and how sure that is."""
    best, equal = found[0], len(found) - len(lower) - 1
    count = int(best["instances"] or 0)
    why = [f"by {best['metric']}" + (f" on {counted(count)}" if count else "")]
    if equal and not lower:
        why.append("all reach the same")
    if lower:
        why.append(f"next is {of(lower[0])} with {lower[0]['score']:.3f}")
        if lower[0]["instances"] != best["instances"]:
            other = int(lower[0]["instances"] or 0)
            why.append(f"that one on {counted(other) if other else 'an unknown number of them'}")
        if overlap(best, lower[0]):
            why.append("their intervals overlap, so the order may be chance")
    if len(found) == 1:
        why.append("nothing to compare it with")
    bounds = interval_of(best)
    interval = "" if bounds is None else f" [{bounds[0]:.3f}, {bounds[1]:.3f}]"
    title = "Best score" if lower else "Score" if len(found) == 1 else "No difference"
    return {
        "title": f"{title}: {name}",
        "best": best["model"] if lower and not equal else None,
        "run": "" if equal and not lower else of(best) + (f" and {equal} more" if equal else ""),
        "value": f"{best['score']:.3f}",
        "interval": interval,
        "why": sentence("; ".join(why)),
    }


def of(score: dict[str, Any]) -> str:
    return f"{score['model']}, {score['decoding']}"


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    first, second = interval_of(one), interval_of(other)
    return first is not None and second is not None and first[0] <= second[1]


def interval_of(score: dict[str, Any]) -> tuple[float, float] | None:
    """A score's interval; None where it is not known.

    Where all answers score the same, the bootstrap has no width. If that is 0 or 1, the exact
    interval of a share stands for it (Clopper and Pearson 1934, 95 %).
    """
    low, high, count = score.get("low"), score.get("high"), int(score["instances"] or 0)
    if low is None or high is None:
        return None
    exact = exact_interval(low, count) if low == high and count > 0 else None
    return exact or (low, high)


def counted(instances: int) -> str:
    return f"{instances:,} instance{'' if instances == 1 else 's'}"


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


def loss_names(groups: Sequence[list[dict[str, Any]]]) -> list[str]:
    """What to call the validation losses of groups that cannot be compared with each other."""
    if len(groups) == 1:
        return ["validation loss (lower is better)"]
    names: list[str] = []
    for group in groups:
        name = f"validation loss on {group[0].get('data_mix') or 'its data'}"
        number = 1 + sum(each.startswith(name) for each in names)
        names.append(f"{name}{f' ({number})' if number > 1 else ''} (lower is better)")
    return names


def cost_points(
    runs: Sequence[Run], rows: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A point for each run, cost and measure: validation loss, and each main score.

    Measures of one run alone are left out, and losses on other data are other measures.
    """
    by_label = {row["run"]: row for row in rows}
    names = short_names({score["entry"]: None for score in scores})
    measures: dict[tuple[str, bool], list[tuple[dict[str, Any], float]]] = {}
    groups = comparable(runs, rows)
    for name, group in zip(loss_names(groups), groups, strict=True):
        measures[name, False] = [(row, row["loss_after"]) for row in group]
    for score in scores:
        trained = by_label.get(mapping(score).get("trained") or "")
        if trained and score["main"] and score["decoding"] != LONGEST:
            name = f"{names[score['entry']]}: {score['metric']}, {score['decoding']}"
            measures.setdefault((name, True), []).append((trained, score["score"]))
    found = []
    for (measure, high), pairs in measures.items():
        if len({row["run"] for row, _ in pairs}) < 2:
            continue  # nothing to set its cost against
        for cost, title in (("hours", "hours"), ("memory", "peak memory, GiB")):
            costed = [(row, value) for row, value in pairs if row.get(cost) is not None]
            front = pareto([(row[cost], value) for row, value in costed], high)
            found += [
                {"run": row["run"], "measure": measure, "cost": title, "x": row[cost], "y": value}
                | {"y_title": measure if high else "validation loss, nats per token"}
                | {"front": "on the front" if best else "beaten by another run"}
                for (row, value), best in zip(costed, front, strict=True)
            ]
    return found
