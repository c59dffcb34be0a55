"""Records of an evaluation, and the summaries and tables that come from them."""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from effchal.config import EvaluateConfig
from effchal.evaluation.names import instance_key
from effchal.evaluation.scenarios.perturbations import FAIRNESS, ROBUSTNESS
from effchal.evaluation.scenarios.types import Reference, Scenario
from effchal.evaluation.seeds import MEAN, SEEDED, Spread, mean_metrics, spread
from effchal.evaluation.stats import Interval, mean_interval
from effchal.runs import read_json_lines, write_atomic

BASELINE = "greedy"  # the decoding that others are compared with
# A control that reads no question: it takes the longest choice, or the option with the
# longest text.
LONGEST = "longest answer"


@dataclass(frozen=True, kw_only=True)
class TextAnswer:
    """A completion of one instance under one decoding. Fields stand as in instances.jsonl."""

    text: str
    finish_reason: str | None = None  # this and the next three: None for a control
    logprob: float | None = None  # nats, of the distribution decoded from
    base_logprob: float | None = None  # nats, of the mature layer alone
    tokens: int | None = None
    layers: dict[str, int] | None = None  # DoLa: positions by premature layer
    metrics: dict[str, float]

    @property
    def answer(self) -> str:
        return self.text


@dataclass(frozen=True)
class ChoiceAnswer:
    """Scores of one instance's choices under one decoding. Fields stand as in instances.jsonl."""

    logprobs: list[float]  # nats, one for each choice
    metrics: dict[str, float]
    layers: dict[str, int] | None = None  # DoLa: positions by premature layer

    @property
    def answer(self) -> int:
        """Index of the choice that won."""
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__)


Answer = TextAnswer | ChoiceAnswer


@dataclass(frozen=True)
class Record:
    """A line of instances.jsonl."""

    entry: str
    id: str
    split: str
    prompt_sha256: str  # digest of prompt and choices
    # What the model was asked, before the prompt template. None in files of version 0.1.
    prompt: str | None = field(default=None, kw_only=True)
    perturbation: str | None = field(default=None, kw_only=True)  # HELM's name; None: original
    # Correct and wrong answers; for scored choices, these in the order of `logprobs`.
    references: list[Reference] | None = field(default=None, kw_only=True)
    # Digest of what the metrics of a user's own question depend on, beside the answer.
    grading: str | None = field(default=None, kw_only=True)
    decodings: dict[str, Answer]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        """Fields of older versions are left out."""
        decodings = {name: _answer(found) for name, found in values["decodings"].items()}
        head = {name: values[name] for name in ("entry", "id", "split", "prompt_sha256")}
        references = values.get("references")
        if references is not None:
            references = [Reference(each["text"], each["correct"]) for each in references]
        names = ("prompt", "grading", "perturbation")
        told: dict[str, Any] = {name: values.get(name) for name in names}
        return cls(**head, decodings=decodings, references=references, **told)

    @property
    def key(self) -> str:
        return instance_key(vars(self))

    def to_line(self) -> str:
        return json.dumps(as_plain(self)) + "\n"


def prompt_digest(prompt: str, choices: Sequence[str] = (), *more: Any) -> str:
    """Tells whether a record is of this prompt and these choices.

    Args:
        more: what else the answer depends on.
    """
    return hashlib.sha256(repr((prompt, tuple(choices), *more)).encode()).hexdigest()[:16]


def _answer(values: dict[str, Any]) -> Answer:
    if "plain_logprob" in values:  # its name in version 0.1
        values = values | {"base_logprob": values["plain_logprob"]}
    kind: type[Answer] = TextAnswer if "text" in values else ChoiceAnswer
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def as_plain(data: Any) -> dict[str, Any]:
    """A dataclass as dicts, without the fields that are None."""
    return asdict(
        data, dict_factory=lambda pairs: {key: value for key, value in pairs if value is not None}
    )


class Records:
    """instances.jsonl: one line for each instance, written when its batch is answered.

    A kill may cut the last line; it is dropped when the file is opened again.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "instances.jsonl"
        self._by_key: dict[tuple[str, str], Record] = {}
        lines = read_json_lines(self._path)
        if self._path.is_file():  # without what a kill cut
            write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        for line in lines:
            with contextlib.suppress(KeyError, TypeError, AttributeError):  # damaged: answer again
                record = Record.from_json(line)
                self._by_key[record.entry, record.key] = record

    def get(self, entry: str, instance_key: str) -> Record | None:
        return self._by_key.get((entry, instance_key))

    def of(self, scenario: Scenario) -> list[Record]:
        """The records of a scenario whose instances are all answered, in their order."""
        return [self._by_key[scenario.entry, instance.key] for instance in scenario.instances]

    def add(self, records: list[Record]) -> None:
        """Append those that are not there yet."""
        new = [record for record in records if (record.entry, record.key) not in self._by_key]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(map(Record.to_line, new)))
        self._by_key |= {(record.entry, record.key): record for record in new}

    def replace(self, records: list[Record]) -> None:
        """Write the file again with these in place of the records of the same instances."""
        self._by_key |= {(record.entry, record.key): record for record in records}
        write_atomic(self._path, "".join(map(Record.to_line, self._by_key.values())))


@dataclass
class DecodingSummary:
    """One decoding over the instances of an entry. Fields stand as in results.json."""

    metrics: dict[str, Interval]
    counts: dict[str, int] | None = None  # instances of the metrics that not all of them have
    layers: dict[str, int] | None = None  # positions by premature layer
    tokens_per_instance: float | None = None
    differences: dict[str, Interval] | None = None  # to the baseline, paired by instance
    answers_that_differ: int | None = None  # from the baseline's
    of_all_instances: dict[str, float] | None = None  # metrics that are not a mean: BBQ's
    seeds: dict[str, Spread] | None = None  # by metric, where it is the mean over several seeds


@dataclass
class EntrySummary:
    """One entry of results.json."""

    split: str  # the one that counts
    instances: int
    main_metric: str
    decodings: dict[str, DecodingSummary]
    not_measured: dict[str, str] | None = None  # metrics of HELM's, and why not

    def having(self, field: str) -> dict[str, Any]:
        """The field of every decoding that has it, by the decoding's name."""
        found = {name: getattr(each, field) for name, each in self.decodings.items()}
        return {name: value for name, value in found.items() if value is not None}


def with_worst_scores(records: list[Record], metric: str) -> list[Record]:
    """The original instances; where there are perturbed ones, with two scores more, as in HELM.

    For robustness, the lowest of the metric over the instance and its perturbations that test
    this; likewise for fairness. An instance that no perturbation changes counts by itself.
    """
    originals = [record for record in records if record.perturbation is None]
    if len(originals) == len(records):
        return records
    versions: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        versions.setdefault((record.entry, record.id), []).append(record)
    return [_with_worst(each, versions[each.entry, each.id], metric) for each in originals]


def _with_worst(original: Record, versions: list[Record], metric: str) -> Record:
    decodings = {}
    for name, answer in original.decodings.items():
        metrics = dict(answer.metrics)
        for kind, perturbations in {"robustness": ROBUSTNESS, "fairness": FAIRNESS}.items():
            counted = [each for each in versions if each.perturbation in (None, *perturbations)]
            worst = min(each.decodings[name].metrics[metric] for each in counted)
            metrics[f"{metric} ({kind})"] = worst
        decodings[name] = replace(answer, metrics=metrics)
    return replace(original, decodings=decodings)


def summarise(records: list[Record], main_metric: str, cfg: EvaluateConfig) -> EntrySummary:
    """Means with intervals by decoding, and differences to the baseline on the same instances.

    Like HELM, counts the test split if there is one, else the validation split. Perturbed
    instances count in scores of their own.
    """
    records = with_worst_scores(records, main_metric)
    split = "test" if any(record.split == "test" for record in records) else "valid"
    counted = [record.decodings for record in records if record.split == split]
    shared = [name for name in counted[0] if all(name in each for each in counted)]
    by_name = {name: [each[name] for each in counted] for name in shared}
    baseline = by_name.get(BASELINE)
    decodings = {
        name: summarise_decoding(found, None if name == BASELINE else baseline, cfg)
        for name, found in by_name.items()
    }
    seeded = {name: answers for name, answers in by_name.items() if name.startswith(SEEDED)}
    if len(seeded) > 1:
        decodings[MEAN] = summarise_seeds(seeded, decodings, cfg)
    return EntrySummary(split, len(counted), main_metric, decodings)


def summarise_seeds(
    seeded: dict[str, list[Answer]], decodings: dict[str, DecodingSummary], cfg: EvaluateConfig
) -> DecodingSummary:
    """The mean over the seeds: of each question for the interval, and of each seed for the spread.

    Args:
        seeded: answers by the names of their decodings.
        decodings: summaries by the same names.
    """
    together = zip(*seeded.values(), strict=True)
    means = [mean_metrics([answer.metrics for answer in each]) for each in together]
    found: list[Answer] = [TextAnswer(text="", metrics=each) for each in means]
    summary = summarise_decoding(found, None, cfg)
    summary.seeds = {
        name: spread({seed: decodings[seed].metrics[name].mean for seed in seeded})
        for name in summary.metrics
    }
    return summary


def summarise_decoding(
    found: list[Answer], baseline: list[Answer] | None, cfg: EvaluateConfig
) -> DecodingSummary:
    """One decoding's answers to all instances; compared with a baseline where one is given."""
    values = {
        name: [each.metrics[name] for each in found if name in each.metrics]
        for name in metrics_of(found)
    }
    metrics = {
        name: mean_interval(scores, cfg.resamples, cfg.confidence)
        for name, scores in values.items()
    }
    counts_of_some = {name: len(v) for name, v in values.items() if len(v) < len(found)}
    summary = DecodingSummary(metrics, counts_of_some or None)
    layers: Counter[str] = Counter()
    for each in found:
        layers.update(each.layers or {})
    if layers:
        summary.layers = dict(sorted(layers.items(), key=lambda item: int(item[0])))
    tokens = [getattr(each, "tokens", None) for each in found]
    counts = [count for count in tokens if count is not None]
    if counts:
        summary.tokens_per_instance = sum(counts) / len(counts)
    if baseline is not None:
        both = [(a.metrics, b.metrics) for a, b in zip(found, baseline, strict=True)]
        summary.differences = {}
        for name in values:
            gaps = [a[name] - b[name] for a, b in both if name in a and name in b]
            if gaps:
                summary.differences[name] = mean_interval(gaps, cfg.resamples, cfg.confidence)
        summary.answers_that_differ = sum(
            ours.answer != theirs.answer for ours, theirs in zip(found, baseline, strict=True)
        )
    return summary


def metrics_of(found: Sequence[Answer]) -> list[str]:
    """Names of the metrics: those that all answers have, then those that some have, by name."""
    names = dict.fromkeys(name for each in found for name in each.metrics)
    common = [name for name in names if all(name in each.metrics for each in found)]
    return common + sorted(names.keys() - set(common))
