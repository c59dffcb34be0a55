"""The texts of evaluations, to look for in training data: HELM's files and a user's own."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.mixing.readers import KINDS, DataError, is_readable, read_rows
from effchal.mixing.rows import DataRow, parse_json, read_csv, read_jsonl

MMLU_SUBJECTS = 57
BBQ_SUBJECTS = (
    "Age",
    "Disability_status",
    "Gender_identity",
    "Nationality",
    "Physical_appearance",
    "Race_ethnicity",
    "Race_x_SES",
    "Race_x_gender",
    "Religion",
    "SES",
    "Sexual_orientation",
)


@dataclass(frozen=True)
class Question:
    evaluation: str  # an entry of scenario.entries, or a file
    place: str  # file and line
    texts: tuple[str, ...]  # the question first
    answers: tuple[str, ...] = ()


def known_questions(folder: Path) -> Iterator[Question]:
    """The evaluated questions of a folder in HELM's layout; examples for a prompt are not.

    Raises:
        DataError: a file that cannot be read.
    """
    for pattern, read in _READERS.items():
        for path in sorted(folder.glob(pattern)):
            yield from read(path)


def missing_questions(folder: Path) -> dict[str, str]:
    """Evaluations that the folder does not hold, each with the reason."""
    missing = {"summarization_cnndm": "news articles are not looked for"}
    for evaluation, pattern in _FILES.items():
        if not any(folder.glob(pattern)):
            missing[evaluation] = f"no {pattern} in {folder}"
    for part in ("val", "test"):
        count = len([*folder.glob(f"mmlu/data/{part}/*_{part}.csv")])
        if "mmlu" not in missing and count < MMLU_SUBJECTS:
            missing[f"mmlu, {part}"] = f"only {count} of {MMLU_SUBJECTS} subjects in {folder}"
    absent = [name for name in BBQ_SUBJECTS if not (folder / "bbq/data" / name).is_file()]
    if "bbq" not in missing and absent:
        missing["bbq, subjects"] = f"no {', '.join(absent)} in {folder}"
    return missing


def questions_of(path: Path) -> Iterator[Question]:
    """The rows of a file of the user's; each text in a row counts.

    Raises:
        DataError: a file that cannot be read, or without any text.
    """
    if not path.is_file():
        raise DataError(f"data_mix.decontaminate.files: no file {path} (from {Path.cwd()})")
    if not is_readable(path):
        raise DataError(f"data_mix.decontaminate.files: {path} is no {KINDS} file")
    empty = True
    for row in read_rows(path):
        texts = tuple(_texts(row.fields))
        empty = empty and not texts
        yield Question(str(path), row.place, texts)
    if empty:
        raise DataError(f"data_mix.decontaminate.files: {path} has no text to look for")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _truthful_qa(path: Path) -> Iterator[Question]:
    lines = read_csv(path, DataError)
    _, columns = next(lines, ("", []))
    for place, values in lines:
        fields = dict(zip(columns, values, strict=False))
        question, *answers = (
            DataRow(fields, place, DataError).text(name)
            for name in ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
        )
        yield Question("truthful_qa", place, (question,), tuple(";".join(answers).split(";")))


def _gsm(path: Path) -> Iterator[Question]:
    for row in read_jsonl(path, DataError):
        worked = row.text("answer")
        without = re.sub("<<.*?>>", "", worked)  # notes for a calculator
        yield Question("gsm", row.place, (row.text("question"),), (worked, without))


def _mmlu(path: Path) -> Iterator[Question]:
    evaluation = f"mmlu:subject={path.stem.rpartition('_')[0]}"
    for place, values in read_csv(path, DataError):
        if len(values) < 3:
            raise DataError(f"{place}: expected a question, choices and a letter, found {values}")
        yield Question(evaluation, place, (values[0],), tuple(values[1:-1]))


def _bbq(path: Path) -> Iterator[Question]:
    for row in read_jsonl(path, DataError):
        text = f"{row.text('context')} {row.text('question')}"
        yield Question(f"bbq:subject={path.name}", row.place, (text,))


def _big_bench(path: Path) -> Iterator[Question]:
    task = DataRow.of(parse_json(path.read_bytes(), str(path), DataError), str(path), DataError)
    examples = task.fields.get("examples")
    if not isinstance(examples, list):
        raise task.wrong("examples", "a list of examples")
    evaluation = f"big_bench:task={path.parent.name}"
    for number, example in enumerate(examples, start=1):
        row = DataRow.of(example, f"{path}, example {number}", DataError)
        answers = (*(row.fields.get("target_scores") or ()), *_texts(row.fields.get("target")))
        yield Question(evaluation, row.place, (row.text("input"),), answers)


_FILES = {  # by name of an evaluation
    "truthful_qa": "truthful_qa/data/TruthfulQA.csv",
    "gsm": "gsm/gsm_data_test",
    "mmlu": "mmlu/data/*/*_*.csv",
    "bbq": "bbq/data/*",
    "big_bench": "big_bench/**/task.json",
}
_READERS: dict[str, Callable[[Path], Iterator[Question]]] = {
    _FILES["truthful_qa"]: _truthful_qa,
    _FILES["gsm"]: _gsm,
    "mmlu/data/val/*_val.csv": _mmlu,
    "mmlu/data/test/*_test.csv": _mmlu,
    **{f"bbq/data/{name}": _bbq for name in BBQ_SUBJECTS},
    _FILES["big_bench"]: _big_bench,
}
