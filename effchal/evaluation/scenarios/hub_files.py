"""Hub data sets as files in HELM's layout: one function for each data set."""

import csv
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from effchal.evaluation.scenarios.math_problems import SPLITS as MATH_SPLITS
from effchal.evaluation.scenarios.multiple_choice import TRUTHFUL_QA_COLUMNS
from effchal.evaluation.scenarios.summaries import SHOT_WORDS
from effchal.evaluation.scenarios.types import HELM_FOLDER, ScenarioError


class Table:
    """Rows of a hub data set by split; a missing split or column is an error."""

    def __init__(self, place: str, splits: Any) -> None:
        """
        Args:
            place: for messages.
            splits: datasets.DatasetDict
        """
        self._place = place
        self._splits = splits

    def rows(self, split: str, *columns: str) -> Iterator[dict[str, Any]]:
        if split not in self._splits:
            raise ScenarioError(
                f"{self._place} has no split {split!r}, only {', '.join(self._splits)}"
            )
        table = self._splits[split]
        absent = [column for column in columns if column not in table.column_names]
        if absent:
            raise ScenarioError(
                f"{self._place}, split {split}, has no column {', '.join(absent)}: {HELM_FOLDER}"
            )
        return iter(table)


Convert = Callable[[Table], dict[str, bytes]]  # to files by name, in HELM's layout


def mmlu_files(subject: str, table: Table) -> dict[str, bytes]:
    files = {}
    for folder, split in (("dev", "dev"), ("val", "validation"), ("test", "test")):
        rows = table.rows(split, "question", "choices", "answer")
        lines = [[row["question"], *row["choices"], "ABCD"[row["answer"]]] for row in rows]
        files[f"{folder}/{subject}_{folder}.csv"] = _csv(lines)
    return files


def gsm_files(table: Table) -> dict[str, bytes]:
    files = {}
    for split in ("train", "test"):
        rows = table.rows(split, "question", "answer")
        lines = [
            json.dumps({"question": row["question"], "answer": row["answer"]}) + "\n"
            for row in rows
        ]
        files[f"gsm_data_{split}"] = "".join(lines).encode()
    return files


def truthful_qa_files(table: Table) -> dict[str, bytes]:
    """The hub split the answers at ";", and the reader does so again."""
    columns = [name.lower().replace(" ", "_") for name in TRUTHFUL_QA_COLUMNS]
    lines = [TRUTHFUL_QA_COLUMNS]
    for row in table.rows("validation", *columns):
        values = [row[column] for column in columns]
        lines.append(["; ".join(value) if isinstance(value, list) else value for value in values])
    return {"TruthfulQA.csv": _csv(lines)}


def cnndm_files(table: Table) -> dict[str, bytes]:
    """Of the training articles, only those short enough for an example: no other is read."""
    found = {}
    for split in ("train", "validation", "test"):
        rows = table.rows(split, "article", "highlights")
        kept = (
            row for row in rows if split != "train" or len(row["article"].split()) in SHOT_WORDS
        )
        found[split] = [
            {"article": row["article"], "highlights": row["highlights"]} for row in kept
        ]
    return {"cnndm.pk": pickle.dumps(found)}


def math_files(tables: list[Table]) -> dict[str, bytes]:
    """Of all subjects, a table each."""
    columns = ("problem", "level", "type", "solution")
    files = {}
    for split in MATH_SPLITS:
        rows = [row for table in tables for row in table.rows(split, *columns)]
        lines = [json.dumps({name: row[name] for name in columns}) + "\n" for row in rows]
        files[f"{split}.jsonl"] = "".join(lines).encode()
    return files


def punkt_files(archive: bytes) -> dict[str, bytes]:
    """NLTK's data for English sentences, out of punkt_tab.zip."""
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        names = [name for name in found.namelist() if "/english/" in name and name[-1] != "/"]
        return {name.rpartition("/")[2]: found.read(name) for name in names}


def _csv(lines: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()
