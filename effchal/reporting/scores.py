"""Scores of evaluations: by entry, metric and decoding, and whose training run they judge."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from effchal.evaluation.seeds import MEAN, SEEDED
from effchal.reporting.collect import Run, number
from effchal.reporting.curves import rounded

GREEDY = "greedy"
LONGEST = "longest answer"  # a control that reads no question


def is_control(decoding: str, decodings: Sequence[str]) -> bool:
    """Whether it is there for comparison only: greedy beside DoLa, and the longest answer."""
    others = [name for name in decodings if name != LONGEST and not name.startswith(GREEDY)]
    return decoding == LONGEST or (decoding.startswith(GREEDY) and bool(others))


def scores_of(run: Run) -> list[dict[str, Any]]:
    """Each score of an evaluation or HELM run; without low and high where no interval is known."""
    return list(_of_helm(run) if run.kind == "helm" else _of_evaluation(run))


def _of_evaluation(run: Run) -> Iterator[dict[str, Any]]:
    for entry, summary in mapping(run.record.get("entries")).items():
        decodings = mapping(mapping(summary).get("decodings"))
        for decoding, values in decodings.items():
            # The best of several seeds is no score of a model; their mean is.
            is_one_seed = decoding.startswith(SEEDED) and MEAN in decodings
            for metric in mapping(mapping(values).get("metrics")):
                mean = number(values, "metrics", metric, "mean")
                if mean is None:
                    continue
                yield {
                    "entry": entry,
                    "metric": metric,
                    "main": metric == summary.get("main_metric") and not is_one_seed,
                    "decoding": decoding,
                    "control": is_control(decoding, list(decodings)),
                    "instances": number(values, "counts", metric) or number(summary, "instances"),
                    "score": rounded(mean),
                    **_interval("", values, "metrics", metric),
                    "difference": number(values, "differences", metric, "mean"),
                    **_interval("difference_", values, "differences", metric),
                    "answers_that_differ": number(values, "answers_that_differ"),
                }


def name_lines(scores: Sequence[dict[str, Any]]) -> None:
    """Give each score its `name` in charts: model, decoding and number of instances.

    Where evaluations scored a model alike with other results, their names tell them apart. The
    same result again, as of a control that each job of a sweep scores, is marked as `again`.
    """
    results: dict[tuple[str, ...], set[float]] = {}
    for score in scores:
        n = f" · n = {score['instances']:g}" if score["instances"] else ""
        score["name"] = f"{score['model']} · {score['decoding']}{n}"
        results.setdefault(_line(score), set()).add(score["score"])
    for score in scores:
        if len(results[_line(score)]) > 1:
            score["name"] = f"{score['run']}{score['name'].removeprefix(score['model'])}"
    seen: set[tuple[str, ...]] = set()
    for score in sorted(scores, key=lambda each: each["control"]):
        score["again"] = _line(score) in seen
        seen.add(_line(score))


def _line(score: dict[str, Any]) -> tuple[str, ...]:
    return score["entry"], score["metric"], score["name"]


def _interval(prefix: str, values: dict[str, Any], *keys: str) -> dict[str, float | None]:
    """Both ends, or None for both where one is not known."""
    ends = {f"{prefix}{end}": number(values, *keys, end) for end in ("low", "high")}
    return dict.fromkeys(ends) if None in ends.values() else ends


def _of_helm(run: Run) -> Iterator[dict[str, Any]]:
    """HELM's own scores; they carry no interval."""
    runs = run.record.get("runs")
    for each in runs if isinstance(runs, list) else []:
        score = number(each, "score") if isinstance(each, dict) else None
        if score is None:
            continue
        yield {
            "entry": str(each.get("entry")),
            "metric": str(each.get("metric")),
            "main": True,
            "decoding": run.decoding,
            "control": False,
            "instances": number(each, "scored"),
            "score": rounded(score),
        }


def layers_of(run: Run) -> list[dict[str, Any]]:
    """How often DoLa chose each premature layer: entry, decoding, layer, positions, share."""
    found = []
    for entry, summary in mapping(run.record.get("entries")).items():
        for decoding, values in mapping(mapping(summary).get("decodings")).items():
            layers = mapping(mapping(values).get("layers"))
            counts = {layer: number(layers, layer) or 0.0 for layer in layers}
            total = sum(counts.values())
            found += [
                {
                    "entry": entry,
                    "decoding": decoding,
                    "layer": layer,
                    "positions": count,
                    "share": rounded(count / total),
                }
                for layer, count in counts.items()
                if total
            ]
    return found


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def scored_runs(runs: Sequence[Run]) -> dict[int, int]:
    """Index of an evaluation -> index of the training run whose bundle it scored.

    The digest of the bundle's manifest tells. Where a run's bundle is gone, the bundle's path
    does, or its end if only one run fits it, as folders may have moved.
    """
    by_digest: dict[str, int] = {}
    by_place: dict[Any, list[int]] = {}
    for index, run in enumerate(runs):
        if run.kind == "train":
            digest, folder = manifest_sha256(run), run.folder.resolve()
            if digest is not None:
                by_digest[digest] = index
            for place in (folder, folder.parts[-2:]):
                by_place.setdefault((place, digest is None), []).append(index)
    found = {}
    for index, run in enumerate(runs):
        if run.kind not in ("evaluate", "helm"):
            continue
        model = mapping(run.record.get("model"))
        digest, bundle = model.get("manifest_sha256"), model.get("bundle")
        bundle = bundle or run.config.get("bundle")
        if digest in by_digest:
            found[index] = by_digest[digest]
        elif isinstance(bundle, str):
            fitting = runs_at(Path(bundle), by_place, unless_there=isinstance(digest, str))
            found |= {index: fitting[0]} if len(fitting) == 1 else {}
    return found


def manifest_sha256(run: Run) -> str | None:
    try:
        return hashlib.sha256((run.folder / "bundle" / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return None


def runs_at(bundle: Path, by_place: dict[Any, list[int]], unless_there: bool) -> list[int]:
    """Runs where a bundle lay; without those that have another bundle now, if that is known."""
    folder = bundle.parent if bundle.name == "bundle" else bundle
    for place in (folder, folder.parts[-2:]):
        gone = by_place.get((place, True), [])
        found = gone if unless_there else gone + by_place.get((place, False), [])
        if found:
            return found
    return []
