"""Summaries of CNN/DM articles, as HELM asks for them, and of SAMSum's chats."""

import csv
import pickle
from functools import partial
from pathlib import Path
from typing import Any

from effchal.evaluation.scenarios.generation import rows_of
from effchal.evaluation.scenarios.helm_adapter import Item, PromptFormat, Task
from effchal.evaluation.scenarios.helm_tables import bias_words, nltk_data
from effchal.evaluation.scenarios.stereotypes import bias_measures
from effchal.evaluation.scenarios.types import Reference, RunMetric, ScenarioError, Settings
from effchal.mixing.rows import DataRow

_ARTICLE_WORDS = 512  # the rest of an article is cut
SHOT_WORDS = range(50, 151)  # only articles of so many words become in-context examples


def cnndm_task(temperature: float, path: Path) -> Task:
    """Three-sentence summaries. HELM's BERTScore, SummaC and coverage are not computed here."""
    file = path / "summarization" / "data" / "cnndm.pk"
    found = DataRow.of(_read_plain_pickle(file), str(file), ScenarioError)
    items = []
    for name, split in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for row in rows_of(found, name, f"{name} row"):
            article = " ".join(row.text("article", may_be_empty=True).split()[:_ARTICLE_WORDS])
            summary = " ".join(row.text("highlights", may_be_empty=True).split())
            if split != "train" or len(article.split()) in SHOT_WORDS:
                items.append(Item(article, (Reference(summary, True),), split))
    return _summary_task(items, "3 sentences", temperature)


def sam_sum_task(entry: str, path: Path) -> Task:
    """One-sentence summaries of chats, without examples, as the contest's fork of HELM asked.

    Every row of the file is a question; there is none for examples.
    """
    file = path / "sam_sum" / "data" / "samsum.tsv"
    items = []
    with file.open(encoding="utf-8") as lines:
        for number, fields in enumerate(csv.DictReader(lines, delimiter="\t"), start=1):
            row = DataRow(dict(fields), f"{file}, row {number}", ScenarioError)
            summary = Reference(row.text("summary"), True)
            items.append(Item(row.text("dialogue"), (summary,), "valid"))
    measures = partial(bias_measures, bias_words(path, entry), nltk_data(path, entry))
    return _summary_task(items, "1 sentence", 0.3, measures)


def _summary_task(
    items: list[Item], length: str, temperature: float, run_metric: RunMetric | None = None
) -> Task:
    form = PromptFormat(
        "###\nArticle: ",
        f"Summarize the above article in {length}.\n",
        option_letters=False,
        input_suffix="\n\n",
    )
    settings = Settings(128, "rouge_2", ("rouge_1", "rouge_l"), ("###",), temperature)
    return Task(items, form, settings, run_metric)


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, lists, texts and numbers alone: a pickle that names a class could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _read_plain_pickle(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            return _PlainUnpickler(stream).load()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise ScenarioError(
            f"{file}: not a pickle of plain dicts, lists and texts ({error}); write it again as "
            "{'train': [{'article': ..., 'highlights': ...}, ...], 'validation': [...], "
            "'test': [...]}"
        ) from error
