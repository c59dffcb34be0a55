"""Scored instances of one model under one decoding, read from an evaluation or a HELM run."""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from effchal.config import Config, ConfigError, load_config
from effchal.evaluation.about import About
from effchal.evaluation.helm.results import run_folder
from effchal.evaluation.names import is_pooled
from effchal.evaluation.results import BASELINE, Record, prompt_digest
from effchal.evaluation.seeds import MEAN, SEEDED, Spread, mean_metrics
from effchal.runs import read_json_lines, read_record

EVALUATION, HELM_RUN = "results.json", "scores.json"
T = TypeVar("T")
UNNAMED = Config.name  # what an evaluation is called by default


@dataclass(frozen=True)
class ScoredInstance:
    digest: str  # of its prompt and choices
    metrics: dict[str, float]


@dataclass
class ScoredEntry:
    """The instances of the split that counts."""

    split: str
    main_metric: str
    instances: dict[str, ScoredInstance] = field(default_factory=dict)  # by id


@dataclass(frozen=True)
class Scored:
    """One side of a comparison."""

    folder: Path
    model: str  # the bundle or the base model, for a reader
    decoding: str
    entries: dict[str, ScoredEntry]
    about: About = field(default_factory=About)
    # Entries of the evaluation that have other decodings than this one.
    without: frozenset[str] = frozenset()
    seeds: dict[str, Spread] = field(default_factory=dict)  # of each entry's main metric


def read_scored(folder: Path, decoding: str | None = None) -> Scored:
    """The scores of a finished evaluation or HELM run.

    Args:
        decoding: its name in results.json; None: greedy, or the only one there is.

    Raises:
        ConfigError: unfinished, damaged or foreign; or it has no such decoding.
    """
    if (folder / EVALUATION).is_file():
        results = finished(folder, EVALUATION)
        return _read_evaluation(folder, results, decoding)
    if (folder / HELM_RUN).is_file():
        scores = finished(folder, HELM_RUN)
        return _read_helm(folder, scores, decoding)
    raise ConfigError(f"{folder} is no evaluation: it has no {EVALUATION} and no {HELM_RUN}")


def finished(folder: Path, file: str) -> dict[str, Any]:
    """What a finished evaluation or HELM run says of itself.

    Raises:
        ConfigError: it is not finished, or another program wrote the file.
    """
    key, command = {EVALUATION: ("entries", "evaluate"), HELM_RUN: ("runs", "helm")}[file]
    command = "lm_eval" if (folder / "lm_eval.json").is_file() else command
    record = read_record(folder / file)
    if not isinstance(record.get("model"), dict) or "status" not in record:
        raise ConfigError(f"{folder / file} is not of effchal {command}: it names no model")
    if record["status"] != "finished" or not record.get(key):
        status = record["status"]
        raise ConfigError(f"{folder} is {status}, not finished; effchal {command} {folder} goes on")
    return record


def decodings_of(folder: Path) -> list[str]:
    """The names of an evaluation's decodings, in their order."""
    entries = finished(folder, EVALUATION)["entries"]
    try:
        found = [_of(dict, entry, "decodings") for entry in entries.values()]
        return list(dict.fromkeys(name for each in found for name in each))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / EVALUATION} is damaged ({error!r})") from error


def _read_evaluation(folder: Path, results: dict[str, Any], decoding: str | None) -> Scored:
    name = _choose(folder, decodings_of(folder), decoding)
    entries: dict[str, ScoredEntry] = {}
    counts: dict[str, int] = {}
    seeds: dict[str, Spread] = {}
    try:
        for entry, summary in results["entries"].items():
            if name in summary["decodings"]:
                entries[entry] = ScoredEntry(
                    _of(str, summary, "split"), _of(str, summary, "main_metric")
                )
                counts[entry] = _of(int, summary, "instances")
                found = summary["decodings"][name].get("seeds")
                if found is not None:
                    seeds[entry] = Spread(**found[entries[entry].main_metric])
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / EVALUATION} is damaged ({error!r})") from error
    _read_instances(folder, name, entries)
    # A pooled entry has no instances of its own.
    entries = {entry: each for entry, each in entries.items() if not is_pooled(entry)}
    for entry, each in entries.items():
        wanted = counts[entry]
        if len(each.instances) != wanted:
            raise ConfigError(
                f"{folder}/instances.jsonl has {len(each.instances)} of the {wanted} instances "
                f"of {entry}; effchal evaluate {folder} answers the others again"
            )
    without = frozenset(entry for entry in results["entries"] if entry not in counts)
    about = About.of(folder, results)
    return Scored(folder, model_label(results), name, entries, about, without, seeds)


def _of(kind: type[T], summary: dict[str, Any], key: str) -> T:
    """Raises TypeError if the value is of another kind."""
    value = summary[key]
    if not isinstance(value, kind):
        raise TypeError(f"{key} is {str(value)[:50]}, no {kind.__name__}")
    return value


def _read_instances(folder: Path, decoding: str, entries: dict[str, ScoredEntry]) -> None:
    """Add the instances of the split that counts.

    Raises:
        ConfigError: damaged, or a metric that is no finite number.
    """
    path = folder / "instances.jsonl"
    for line in read_json_lines(path):
        try:
            record = Record.from_json(line)
            if record.perturbation is not None:
                continue
            scored = entries.get(record.entry)
            if scored is not None and record.split == scored.split:
                metrics = _numbers(_metrics_of(record, decoding))
                scored.instances[record.id] = ScoredInstance(record.prompt_sha256, metrics)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            where = f"{line.get('entry')}, instance {line.get('id')}"
            raise ConfigError(f"{path} is damaged at {where} ({error!r})") from error


def _metrics_of(record: Record, decoding: str) -> dict[str, Any]:
    if decoding != MEAN:
        return record.decodings[decoding].metrics
    seeded = [a.metrics for name, a in record.decodings.items() if name.startswith(SEEDED)]
    return mean_metrics([_numbers(metrics) for metrics in seeded])


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Raises ValueError if one is no finite number, or too large for a float."""
    for name, value in metrics.items():
        is_number = type(value) in (int, float, bool)
        if not is_number or not abs(value) <= sys.float_info.max:
            raise ValueError(f"{name} is {str(value)[:50]}, no finite number")
    return metrics


def _read_helm(folder: Path, scores: dict[str, Any], decoding: str | None) -> Scored:
    name = load_config(folder / "config.yaml").decoding.method.value
    _choose(folder, [name], decoding)
    entry_counts = Counter(run["entry"] for run in scores["runs"])
    entries = {}
    for run in scores["runs"]:
        if run["metric"] is not None:  # HELM reports no score of it
            entry = run["entry"] if entry_counts[run["entry"]] == 1 else run["name"]
            entries[entry] = _read_helm_entry(run_folder(folder, run["name"]), run)
    return Scored(folder, model_label(scores), name, entries, About.of(folder, scores))


def _read_helm_entry(folder: Path, run: dict[str, Any]) -> ScoredEntry:
    """Raises ConfigError if HELM's files of single instances are gone or damaged."""
    found = ScoredEntry(run["split"], run["metric"])
    try:
        states = json.loads((folder / "scenario_state.json").read_text())["request_states"]
        rows = json.loads((folder / "per_instance_stats.json").read_text())
        originals = [state for state in states if "perturbation" not in state["instance"]]
        prompts = {state["instance"]["id"]: state["request"]["prompt"] for state in originals}
        for row in rows:
            metrics = {
                stat["name"]["name"]: stat["mean"]
                for stat in row["stats"]
                if stat["name"].get("split") == run["split"]
                and "perturbation" not in stat["name"]
                and "mean" in stat
            }
            if run["metric"] in metrics:
                digest = prompt_digest(prompts[row["instance_id"]])
                found.instances[row["instance_id"]] = ScoredInstance(digest, metrics)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} has no scores of single instances ({error!r})") from error
    return found


def _choose(folder: Path, names: list[str], decoding: str | None) -> str:
    if decoding is None:
        usual = [name for name in (BASELINE, MEAN) if name in names]
        decoding = usual[0] if usual else names[0] if len(names) == 1 else None
    if decoding in names:
        return decoding
    asked = "" if decoding is None else f" {decoding!r}"
    raise ConfigError(f"{folder} has no decoding{asked or ' greedy'}, only {', '.join(names)}")


def model_label(record: dict[str, Any]) -> str:
    """The run of a bundle, or the base model with the evaluation's name, for a reader.

    Args:
        record: results.json or scores.json.
    """
    bundle, base = record["model"].get("bundle"), str(record["model"].get("base_model"))
    if bundle is None:
        base = Path(base).name if Path(base).is_absolute() else base
        name = record.get("name", UNNAMED)
        return base if name == UNNAMED else f"{base} ({name})"
    path = Path(bundle)
    run = path.parent if path.name == "bundle" and path.parent.name else path
    # The job of a sweep is called by its number.
    return f"{run.parent.name}/{run.name}" if run.name.isdigit() else run.name
