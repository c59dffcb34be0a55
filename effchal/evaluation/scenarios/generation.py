"""HELM's free generation: GSM8K and BIG-bench tasks."""

import logging
import random
from dataclasses import dataclass, field
from pathlib import Path

from effchal.evaluation.scenarios.helm_adapter import Item, PromptFormat, Task
from effchal.evaluation.scenarios.helm_tables import nltk_data
from effchal.evaluation.scenarios.metrics import import_rouge
from effchal.evaluation.scenarios.multiple_choice import EXACT_MATCHES
from effchal.evaluation.scenarios.nltk_words import tokenizer
from effchal.evaluation.scenarios.types import Reference, ScenarioError, Settings
from effchal.mixing.rows import DataRow, parse_json, read_jsonl

# HELM's metrics by BIG-bench's name of them; a task's main one is the first.
METRICS = {
    "exact_str_match": ("exact_match", "quasi_exact_match"),
    "rouge": ("rouge_l", "rouge_1", "rouge_2"),
    "bleu": ("bleu_4", "bleu_1"),
}
log = logging.getLogger(__name__)


def gsm_task(path: Path) -> Task:
    """GSM8K, with "The answer is" before the number that the data mark by "####"."""
    items = []
    for split in ("train", "test"):
        for row in read_jsonl(path / "gsm" / f"gsm_data_{split}", ScenarioError):
            answer = row.text("answer").replace("####", "The answer is").replace("\n", " ") + "."
            items.append(Item(row.text("question"), (Reference(answer, True),), split))
    settings = Settings(
        max_new_tokens=400,
        main_metric="final_number_exact_match",
        other_metrics=("exact_match_indicator",),
        stops=("\n\n",),
    )
    return Task(items, PromptFormat("Q: ", "A: ", option_letters=False), settings)


def big_bench_task(entry: str, task: str, subtask: str, path: Path) -> Task:
    """One BIG-bench task.json.

    Its `metrics` decide the form: multiple_choice_grade lists the choices and asks for an
    option letter, others generate the answer. Both generate at most 64 tokens.
    """
    parts = [part for part in (task, subtask) if part]
    file = path.joinpath("big_bench", *parts, "task.json")
    value = parse_json(file.read_bytes(), str(file), ScenarioError)
    found = DataRow.of(value, str(file), ScenarioError)
    examples = rows_of(found, "examples", "example")
    if not examples:
        raise found.wrong("examples", "a list of examples")
    metrics = _big_bench_metrics(found, entry, path)
    random.Random(0).shuffle(examples)
    evaluated = max(int(0.2 * len(examples)), 16)  # of each of the two splits
    train = len(examples) - 2 * evaluated
    items = []
    for position, example in enumerate(examples):
        split = "train" if position < train else "test" if position < train + evaluated else "valid"
        items.append(_big_bench_item(example, split))
    stop = None if metrics.option_letters else found.fields.get("stop_string")  # as HELM has it
    return Task(
        items,
        PromptFormat(
            found.text("example_input_prefix", "Question: ", may_be_empty=True),
            found.text("example_output_prefix", "Answer: ", may_be_empty=True),
            metrics.option_letters,
            instructions=found.text("task_prefix", "", may_be_empty=True),
        ),
        Settings(64, metrics.names[0], metrics.names[1:], stops=(str(stop),) if stop else ()),
        not_measured=metrics.not_measured,
    )


def rows_of(found: DataRow, name: str, noun: str) -> list[DataRow]:
    """The objects of a list; messages call them <noun> 1, <noun> 2, ..."""
    values = found.fields.get(name)
    if not isinstance(values, list):
        raise found.wrong(name, f"a list of {noun}s")
    numbered = enumerate(values, start=1)
    return [DataRow.of(value, f"{found.place}, {noun} {i}", ScenarioError) for i, value in numbered]


@dataclass(frozen=True)
class _Metrics:
    option_letters: bool  # whether to ask for one
    names: tuple[str, ...]  # of HELM's metrics, the main one first
    not_measured: dict[str, str] = field(default_factory=dict)  # others, with the reason


def _big_bench_metrics(found: DataRow, entry: str, path: Path) -> _Metrics:
    """The form and the metrics of a task.

    Raises:
        ScenarioError: it has none that is known, or none that can be measured.
    """
    listed = found.texts("metrics")
    if "multiple_choice_grade" in listed:
        return _Metrics(True, ("exact_match", *EXACT_MATCHES))
    known = {name: METRICS[name] for name in METRICS if name in listed}
    if not known:
        raise ScenarioError(
            f"{found.place}, field 'metrics': expected multiple_choice_grade or one of "
            f"{', '.join(METRICS)} among them, found {', '.join(listed)}"
        )
    unknown = [name for name in listed if name not in METRICS]
    if unknown:
        log.warning("%s: metrics that HELM leaves out, too: %s", found.place, ", ".join(unknown))
    not_measured = {}
    checks = {"rouge": import_rouge, "bleu": lambda: tokenizer(nltk_data(path, entry))}
    for name in [each for each in checks if each in known]:
        try:
            checks[name]()
        except ScenarioError as error:
            if len(known) == 1:
                raise
            not_measured[", ".join(sorted(known.pop(name)))] = str(error)
    names = tuple(metric for metrics in known.values() for metric in metrics)
    return _Metrics(False, names, not_measured)


def _big_bench_item(example: DataRow, split: str) -> Item:
    question = example.text("input")
    scores, target = example.fields.get("target_scores"), example.fields.get("target")
    if scores is None:
        if not isinstance(target, list):
            example.fields["target"] = [target]
        references = [Reference(answer, True) for answer in example.texts("target")]
        return Item(question, tuple(references), split)
    if (
        not isinstance(scores, dict)
        or not scores
        or not all(type(score) in (int, float) for score in scores.values())
    ):
        raise example.wrong("target_scores", "answers with numbers")
    best = max(scores.values())
    references = [Reference(answer, score == best) for answer, score in scores.items()]
    return Item(question, tuple(references), split)
