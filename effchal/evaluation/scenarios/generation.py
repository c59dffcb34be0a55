"""HELM's free generation: GSM8K, BIG-bench tasks and summaries of CNN/DM articles."""

import logging
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effchal.evaluation.scenarios.files import (
    check_texts,
    find_file,
    read_json_object,
    read_jsonl,
    shown,
    text_field,
)
from effchal.evaluation.scenarios.helm_adapter import Item, PromptFormat, Task
from effchal.evaluation.scenarios.multiple_choice import EXACT_MATCHES
from effchal.evaluation.scenarios.types import Reference, ScenarioError

_ARTICLE_WORDS = 512  # of an article, the rest is cut
SHOT_WORDS = range(50, 151)  # only articles of so many words become in-context examples
log = logging.getLogger(__name__)


def gsm_task(entry: str, path: Path) -> Task:
    """GSM8K, with "The answer is" before the number that the data marks by "####"."""
    items = []
    for split in ("train", "test"):
        for place, row in read_jsonl(find_file(path, entry, "gsm", f"gsm_data_{split}")):
            answer = (
                text_field(row, "answer", place).replace("####", "The answer is").replace("\n", " ")
                + "."
            )
            items.append(
                Item(text_field(row, "question", place), (Reference(answer, True),), split)
            )
    return Task(
        items,
        PromptFormat("Q: ", "A: ", by_letter=False),
        max_new_tokens=400,
        main_metric="final_number_exact_match",
        other_metrics=("exact_match_indicator",),
        stops=("\n\n",),
    )


def big_bench_task(entry: str, task: str, subtask: str, path: Path) -> Task:
    """One BIG-bench task.json. Its `metrics` decide the form: multiple_choice_grade lists the choices and asks
    for a letter, exact_str_match has the answer generated. Either way 64 tokens, and mostly no stop sequence.
    """
    file = find_file(
        path, entry, "big_bench", *(part for part in (task, subtask) if part), "task.json"
    )
    found = read_json_object(file)
    examples = found.get("examples")
    if not isinstance(examples, list) or not examples:
        raise ScenarioError(
            f"{file}, field 'examples': expected a list of examples, found {shown(examples)}"
        )
    by_letter, other_metrics = _big_bench_metrics(found.get("metrics"), file)
    numbered = list(enumerate(examples, start=1))
    random.Random(0).shuffle(numbered)
    evaluated = max(int(0.2 * len(numbered)), 16)  # of each of the two splits
    train = len(numbered) - 2 * evaluated
    items = []
    for position, (number, example) in enumerate(numbered):
        split = "train" if position < train else "test" if position < train + evaluated else "valid"
        items.append(_big_bench_item(example, split, f"{file}, example {number}"))
    stop = found.get("stop_string")
    return Task(
        items,
        PromptFormat(
            _template(found, "example_input_prefix", "Question: ", file),
            _template(found, "example_output_prefix", "Answer: ", file),
            by_letter=by_letter,
            instructions=_template(found, "task_prefix", "", file),
        ),
        max_new_tokens=64,
        main_metric="exact_match",
        other_metrics=other_metrics,
        stops=(str(stop),)
        if stop and not by_letter
        else (),  # HELM sends none with multiple choice
    )


def _big_bench_metrics(names: Any, file: Path) -> tuple[bool, tuple[str, ...]]:
    """Whether to ask for a letter, and the metrics beside exact_match."""
    listed = check_texts(names, f"{file}, field 'metrics'")
    if "multiple_choice_grade" in listed:
        return True, EXACT_MATCHES
    if "exact_str_match" not in listed:
        raise ScenarioError(
            f"{file}, field 'metrics': expected multiple_choice_grade or exact_str_match among them, "
            f"found {', '.join(listed)}; run this task with scripts/helm.sh"
        )
    passed_over = [name for name in listed if name != "exact_str_match"]
    if passed_over:
        log.warning("%s: metrics not computed here: %s", file, ", ".join(passed_over))
    return False, ("quasi_exact_match",)


def _big_bench_item(example: Any, split: str, place: str) -> Item:
    if not isinstance(example, dict):
        raise ScenarioError(
            f"{place}: expected an object with named fields, found {shown(example)}"
        )
    question = text_field(example, "input", place)
    scores, target = example.get("target_scores"), example.get("target")
    if scores is None:
        answers = check_texts(
            target if isinstance(target, list) else [target], f"{place}, field 'target'"
        )
        return Item(question, tuple(Reference(answer, True) for answer in answers), split)
    numbers = isinstance(scores, dict) and all(
        type(score) in (int, float) for score in scores.values()
    )
    if not numbers or not scores:
        raise ScenarioError(
            f"{place}, field 'target_scores': expected answers with numbers, found {shown(scores)}"
        )
    best = max(scores.values())
    return Item(
        question, tuple(Reference(answer, score == best) for answer, score in scores.items()), split
    )


def _template(found: dict[str, Any], name: str, default: str, file: Path) -> str:
    value = found.get(name, default)
    if not isinstance(value, str):
        raise ScenarioError(f"{file}, field {name!r}: expected text, found {shown(value)}")
    return value


def cnndm_task(entry: str, temperature: float, path: Path) -> Task:
    """Three-sentence summaries. HELM's other figures (BERTScore, SummaC, coverage) are not computed here."""
    file = find_file(path, entry, "summarization", "data", "cnndm.pk")
    found = _read_plain_pickle(file)
    items = []
    for name, split in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for place, row in _cnndm_rows(found, name, file):
            article = " ".join(
                text_field(row, "article", place, may_be_empty=True).split()[:_ARTICLE_WORDS]
            )
            summary = " ".join(text_field(row, "highlights", place, may_be_empty=True).split())
            if split != "train" or len(article.split()) in SHOT_WORDS:
                items.append(Item(article, (Reference(summary, True),), split))
    return Task(
        items,
        PromptFormat(
            "###\nArticle: ",
            "Summarize the above article in 3 sentences.\n",
            by_letter=False,
            input_suffix="\n\n",
        ),
        max_new_tokens=128,
        main_metric="rouge_2",
        other_metrics=("rouge_1", "rouge_l"),
        stops=("###",),
        temperature=temperature,
    )


def _cnndm_rows(found: Any, name: str, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = found.get(name) if isinstance(found, dict) else None
    if not isinstance(rows, list):
        raise ScenarioError(f"{file}, field {name!r}: expected a list of rows, found {shown(rows)}")
    for number, row in enumerate(rows, start=1):
        place = f"{file}, {name} row {number}"
        if not isinstance(row, dict):
            raise ScenarioError(
                f"{place}: expected an object with named fields, found {shown(row)}"
            )
        yield place, row


class _PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, texts and numbers alone: a pickle that names a class could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _read_plain_pickle(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            return _PlainUnpickler(stream).load()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise ScenarioError(
            f"{file}: not a pickle of plain dicts, lists and texts ({error}); write it again as "
            "{'train': [{'article': ..., 'highlights': ...}, ...], 'validation': [...], 'test': [...]}"
        ) from error
