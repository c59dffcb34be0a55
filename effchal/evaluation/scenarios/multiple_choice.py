"""HELM's multiple choice by option letter: MMLU and TruthfulQA. The model generates one token."""

from dataclasses import dataclass
from pathlib import Path

from effchal.evaluation.scenarios.helm_adapter import Item, PromptFormat, Task
from effchal.evaluation.scenarios.types import Reference, ScenarioError, Settings
from effchal.mixing.rows import check_text, read_csv, shown

EXACT_MATCHES = ("quasi_exact_match", "prefix_exact_match", "quasi_prefix_exact_match")
INSTRUCTIONS = "The following are multiple choice questions (with answers)"  # HELM's
_MMLU_SPLITS = {"dev": "train", "val": "valid", "test": "test"}
TRUTHFUL_QA_COLUMNS = [
    "Type",
    "Category",
    "Question",
    "Best Answer",
    "Correct Answers",
    "Incorrect Answers",
    "Source",
]


def letter_task(items: list[Item], instructions: str, input_noun: str) -> Task:
    """HELM's settings for multiple choice by option letter. It sends no stop sequence."""
    form = PromptFormat(f"{input_noun}: ", "Answer: ", True, instructions)
    return Task(items, form, Settings(1, "exact_match", EXACT_MATCHES))


def mmlu_task(subject: str, path: Path) -> Task:
    """Examples from dev, questions from val and test together, as in HELM.

    HELM silently scores val alone if the file of test is missing. Here that is an error.
    """
    items: list[Item] = []
    for folder, split in _MMLU_SPLITS.items():
        file = path / "mmlu" / "data" / folder / f"{subject}_{folder}.csv"
        items += [_mmlu_item(row, split, place) for place, row in read_csv(file, ScenarioError)]
    return letter_task(items, f"{INSTRUCTIONS} about {subject.replace('_', ' ')}.\n", "Question")


def _mmlu_item(row: list[str], split: str, place: str) -> Item:
    if not 4 <= len(row) <= 7:
        raise ScenarioError(
            f"{place}: expected a question, 2 to 5 choices and a letter, "
            f"found {len(row)} fields: {shown(row)}"
        )
    question, choices, correct = row[0], row[1:-1], row[-1]
    letters = "ABCDE"[: len(choices)]
    if len(correct) != 1 or correct not in letters:
        raise ScenarioError(
            f"{place}, last field: expected a letter of {letters}, found {shown(correct)}"
        )
    # HELM compares texts: where two choices read the same, both are correct.
    place = f"{place}, choice {correct}"
    answer = check_text(choices[letters.index(correct)], place, ScenarioError)
    return Item(question, tuple(Reference(choice, choice == answer) for choice in choices), split)


def truthful_qa_task(path: Path) -> Task:
    """One correct answer among the incorrect ones; the first fifth of the file is for examples."""
    rows = truthful_qa_rows(path)
    train = int(len(rows) * 0.2)
    items = []
    for number, row in enumerate(rows):
        references = [*(Reference(answer, False) for answer in row.incorrect)]
        references.append(Reference(row.best, True))
        # HELM varies the position of the correct one by the code of its first character.
        shift = ord(row.best[0]) % len(references)
        split = "train" if number < train else "valid"
        items.append(
            Item(row.question.strip(), tuple(references[shift:] + references[:shift]), split)
        )
    return letter_task(items, "", "Question")


@dataclass(frozen=True)
class TruthfulQARow:
    """One question of TruthfulQA.csv.

    Answers are stripped and end in a full stop, as in HELM and in the published code of
    TruthfulQA and DoLa.
    """

    place: str  # for messages
    question: str
    best: str
    correct: list[str]
    incorrect: list[str]


def truthful_qa_rows(path: Path) -> list[TruthfulQARow]:
    """The questions in file order.

    Raises:
        ScenarioError: other columns, or a question without answers.
    """
    lines = list(read_csv(path / "truthful_qa" / "data" / "TruthfulQA.csv", ScenarioError))
    if lines:
        place, columns = lines[0]
        columns[:1] = [name.lstrip("\ufeff") for name in columns[:1]]
        if columns != TRUTHFUL_QA_COLUMNS:
            raise ScenarioError(
                f"{place}: expected the columns {TRUTHFUL_QA_COLUMNS}, found {shown(columns)}"
            )
    return [_truthful_qa_row(place, row) for place, row in lines[1:]]


def _truthful_qa_row(place: str, row: list[str]) -> TruthfulQARow:
    if len(row) != len(TRUTHFUL_QA_COLUMNS):
        raise ScenarioError(
            f"{place}: expected {len(TRUTHFUL_QA_COLUMNS)} fields, found {len(row)}: {shown(row)}"
        )

    def field(name: str, separator: str = " ") -> str:
        text = row[TRUTHFUL_QA_COLUMNS.index(name)]
        check_text(text.replace(separator, " "), f"{place}, field {name!r}", ScenarioError)
        return text

    return TruthfulQARow(
        place,
        field("Question"),
        _closed(field("Best Answer")),
        _answers(field("Correct Answers", ";")),
        _answers(field("Incorrect Answers", ";")),
    )


def _answers(text: str) -> list[str]:
    return [_closed(answer) for answer in text.split(";") if answer.strip()]


def _closed(answer: str) -> str:
    answer = answer.strip()
    return answer if answer.endswith(".") else f"{answer}."
