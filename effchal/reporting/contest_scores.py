"""What our evaluations and HELM runs scored on the contest's metrics, instance by instance."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from effchal.evaluation.helm.results import run_folder
from effchal.evaluation.scenarios.perturbations import FAIRNESS, ROBUSTNESS
from effchal.reporting.collect import RECORDS, Run, number
from effchal.reporting.finals import Floats
from effchal.reporting.helm_answers import DAMAGE

# The scenario of the contest that an entry belongs to, and the metric there. HELM of 2023 scored
# GSM8K by exact_match_indicator; its final_number_exact_match is a later one.
CONTEST = {
    "mmlu": ("MMLU", "exact_match"),
    "truthful_qa": ("TruthfulQA", "exact_match"),
    "big_bench": ("BIG-bench", "exact_match"),
    "gsm": ("GSM8K", "exact_match_indicator"),
    "bbq": ("BBQ", "exact_match"),
    "math": ("MATH", "math_equiv_chain_of_thought"),
    "sam_sum": ("SAMSum", "rouge_2"),
    "corr2cause": ("corr2cause", "exact_match"),
    "ethics_commonsense": ("ETHICS", "exact_match"),
    "ethics_deontology": ("ETHICS", "exact_match"),
    "ethics_justice": ("ETHICS", "exact_match"),
    "ethics_utilitarianism": ("ETHICS", "exact_match"),
    "ethics_virtue": ("ETHICS", "exact_match"),
}
MAIN = {"MATH": "equivalent", "SAMSum": "ROUGE-2"}  # the contest's name, if not EM
PERTURBATIONS = {"robustness": ROBUSTNESS, "fairness": FAIRNESS}
FILE = "per_instance_stats.json"  # of HELM


class Instance(NamedTuple):
    """A question. Two runs asked the same one if both values are equal."""

    id: str
    digest: str = ""  # of prompt and choices; HELM's files have none


@dataclass
class MetricScores:
    """One metric of a scenario, by entry and instance. An entry is a part, such as a subject."""

    by_entry: dict[str, dict[Instance, float]] = field(default_factory=dict)

    @property
    def instances(self) -> int:
        return sum(map(len, self.by_entry.values()))

    @property
    def mean(self) -> float:
        """Mean over the entries of their means, as HELM's groups have it."""
        return float(np.mean([np.mean(list(each.values())) for each in self.by_entry.values()]))

    def resampled(self, counts: dict[str, Floats]) -> Floats:
        """The mean in each resample.

        Args:
            counts: of each entry, (resamples, instances): how often an instance was drawn.
        """
        means = [counts[entry] @ list(each.values()) for entry, each in self.by_entry.items()]
        sizes = [len(each) for each in self.by_entry.values()]
        return np.mean([mean / size for mean, size in zip(means, sizes, strict=True)], axis=0)


@dataclass
class RunScore(MetricScores):
    """A metric that is no mean over instances. Nothing is known of its noise."""

    value: float = 0.0

    @property
    def mean(self) -> float:
        return self.value

    def resampled(self, counts: dict[str, Floats]) -> Floats:
        return np.full(len(next(iter(counts.values()))), self.value)


def main_scores(metrics: dict[str, MetricScores]) -> MetricScores:
    """Of each entry its first metric, which is the main one. Parts of ETHICS have one each."""
    found: dict[str, dict[Instance, float]] = {}
    for each in metrics.values():
        for entry, scores in each.by_entry.items():
            found.setdefault(entry, scores)
    return MetricScores(found)


@dataclass
class ContestScores:
    """A run's scores: by scenario and metric, both with the contest's names."""

    name: str
    folder: Path
    decoding: str
    scenarios: dict[str, dict[str, MetricScores]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # what of the run is no score, and why

    def add(self, scenario: str, metric: str, entry: str, scores: dict[Instance, float]) -> None:
        metrics = self.scenarios.setdefault(scenario, {})
        metrics.setdefault(metric, MetricScores()).by_entry[entry] = scores

    def keep_whole_metrics(self) -> None:
        """Drop a perturbed metric that some entries of its scenario lack."""
        for scenario, metrics in self.scenarios.items():
            if scenario == "ETHICS":  # where every entry has metrics of its own
                continue
            entries = len(next(iter(metrics.values())).by_entry)
            for name in [
                name
                for name, each in metrics.items()
                if len(each.by_entry) < entries and not isinstance(each, RunScore)
            ]:
                del metrics[name]
                self.left_out.append(f"{scenario} {name}: some entries have no perturbations")


def scores_of(run: Run, decoding: str) -> ContestScores:
    """What a run of `effchal evaluate` or `effchal helm` scored. Nothing is guessed or filled in.

    Args:
        decoding: which one of an evaluation's decodings; HELM asks with the served one.
    """
    found = ContestScores(run.name, run.folder, decoding if run.kind == "evaluate" else "as served")
    try:
        if run.kind == "evaluate":
            _read_evaluation(run, decoding, found)
        elif run.kind == "helm":
            _read_helm(run, found)
        found.keep_whole_metrics()
    except Exception as error:  # a file may hold anything
        reason = f"is not as this version writes it ({type(error).__name__})"
        found.left_out.append(f"{RECORDS[run.kind]} {reason}")
    return found


def _read_evaluation(run: Run, decoding: str, found: ContestScores) -> None:
    entries = run.record.get("entries")
    if run.status != "finished" or not isinstance(entries, dict):
        return found.left_out.append(f"the evaluation is not finished: {run.status}")
    for entry, summary in entries.items():
        if ", " in entry and entry.endswith("together"):  # a summary of other entries
            continue
        named = CONTEST.get(entry.partition(":")[0])
        if named is None:
            found.left_out.append(f"{entry} is no scenario of the contest")
            continue
        scenario, metric = named
        lines = [each for each in run.instances if each.get("entry") == entry]
        counted = [each for each in lines if each.get("split") == summary.get("split")]
        rows = list(_answers(counted, decoding, metric))
        scores = {instance: score for instance, changed, score in rows if not changed}
        if decoding not in summary.get("decodings", {}):
            has = ", ".join(summary.get("decodings", {})) or "none"
            found.left_out.append(f"{entry} has no decoding {decoding!r}; it has: {has}")
        elif not scores or len(scores) != summary.get("instances"):
            found.left_out.append(
                f"{entry}: instances.jsonl has {len(scores)} of {summary.get('instances')} scores"
            )
        else:
            _add(found, scenario, entry, rows)
            of_run = summary["decodings"][decoding].get("of_all_instances", {})
            for name, value in of_run.items() if scenario == "SAMSum" else ():
                found.scenarios[scenario][name.capitalize()] = RunScore(value=float(value))


def _answers(
    lines: Iterable[dict[str, Any]], decoding: str, metric: str
) -> Iterator[tuple[Instance, dict[str, Any], float]]:
    """Instance, perturbation ({}: none) and score of each line; originals come first."""
    digests: dict[str, str] = {}
    for line in lines:
        score = number(line, "decodings", decoding, "metrics", metric)
        if score is None:  # the count of what is left tells
            continue
        changed = line.get("perturbation")
        digest = digests.setdefault(str(line["id"]), str(line.get("prompt_sha256", "")))
        kinds = {kind: changed in names for kind, names in PERTURBATIONS.items() if changed}
        yield Instance(str(line["id"]), digest), kinds, score


def _add(
    found: ContestScores,
    scenario: str,
    entry: str,
    rows: list[tuple[Instance, dict[str, Any], float]],
) -> None:
    """The scores of an entry, and where there are perturbations, of its worst cases."""
    part = re.match(r"ethics_(\w+)", entry)
    title = f"{part[1]}: EM" if part else MAIN.get(scenario, "EM")
    original = {instance: score for instance, perturbation, score in rows if not perturbation}
    found.add(scenario, title, entry, original)
    if not any(perturbation for _, perturbation, _ in rows):
        return
    for kind in PERTURBATIONS:
        worst = {
            instance: min(score, original.get(instance, score))
            for instance, score in _worst(rows, kind).items()
        }
        found.add(scenario, f"{title} ({kind.capitalize()})", entry, original | worst)


def _read_helm(run: Run, found: ContestScores) -> None:
    for each in run.record.get("runs", []):
        name, named = each["name"], CONTEST.get(each["entry"].partition(":")[0])
        if each.get("status") != "finished":
            found.left_out.append(f"{name} failed: {each.get('error')}")
        elif named is None:
            found.left_out.append(f"{name} is no scenario of the contest that HELM has")
        else:
            _read_helm_run(run_folder(run.folder, name) / FILE, each, *named, found)


def _read_helm_run(
    path: Path, run: dict[str, Any], scenario: str, metric: str, found: ContestScores
) -> None:
    try:
        rows = list(_helm_scores(json.loads(path.read_text("utf-8")), metric, run.get("split")))
    except DAMAGE as error:
        return found.left_out.append(f"{path} cannot be read ({type(error).__name__})")
    original = {instance: score for instance, perturbation, score in rows if not perturbation}
    if not original:
        return found.left_out.append(f"{run['name']} has no {metric}")
    entry = re.sub(r"[:,]model=[^,]*", "", run["name"])  # the same for every model
    _add(found, scenario, entry, rows)


def _helm_scores(
    records: list[dict[str, Any]], metric: str, split: str | None
) -> Iterator[tuple[Instance, dict[str, Any], float]]:
    """Instance, perturbation ({}: none) and score of each record, on the split that counts."""
    for record in records:
        for stat in record["stats"]:
            name = stat["name"]
            if name["name"] == metric and name.get("split") == split:
                score = number(stat, "mean")
                if score is None:
                    raise ValueError("a score that is no number")
                yield Instance(record["instance_id"]), record.get("perturbation") or {}, score


def _worst(rows: list[tuple[Instance, dict[str, Any], float]], kind: str) -> dict[Instance, float]:
    """The lowest score over an instance's perturbations of a kind, as HELM takes it."""
    worst: dict[Instance, float] = {}
    for instance, perturbation, score in rows:
        if perturbation.get(kind):
            worst[instance] = min(score, worst.get(instance, score))
    return worst
