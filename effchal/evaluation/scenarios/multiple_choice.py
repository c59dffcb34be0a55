"""HELM's multiple choice by letter: MMLU and TruthfulQA. One token is generated and looked up."""

from pathlib import Path

from effchal.evaluation.scenarios.files import check_text, find_file, read_csv, shown
from effchal.evaluation.scenarios.helm_adapter import Item, PromptFormat, Task
from effchal.evaluation.scenarios.types import Reference, ScenarioError

EXACT_MATCHES = ("quasi_exact_match", "prefix_exact_match", "quasi_prefix_exact_match")
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
    """HELM's settings for every multiple choice by letter. It sends no stop sequence with them."""
    form = PromptFormat(f"{input_noun}: ", "Answer: ", by_letter=True, instructions=instructions)
    return Task(
        items, form, max_new_tokens=1, main_metric="exact_match", other_metrics=EXACT_MATCHES
    )


def mmlu_task(entry: str, subject: str, path: Path) -> Task:
    """Examples from dev, questions from val and test together, as HELM has it.

    HELM passes over a missing file in silence and would then score val alone; here it is an error.
    """
    items: list[Item] = []
    for folder, split in _MMLU_SPLITS.items():
        file = find_file(path, entry, "mmlu", "data", folder, f"{subject}_{folder}.csv")
        items += [_mmlu_item(row, split, place) for place, row in read_csv(file)]
    about = subject.replace("_", " ")
    return letter_task(
        items,
        f"The following are multiple choice questions (with answers) about {about}.\n",
        "Question",
    )


def _mmlu_item(row: list[str], split: str, place: str) -> Item:
    if not 4 <= len(row) <= 7:
        raise ScenarioError(
            f"{place}: expected a question, 2 to 5 choices and a letter, found {len(row)} fields: {shown(row)}"
        )
    question, choices, correct = row[0], row[1:-1], row[-1]
    letters = "ABCDE"[: len(choices)]
    if len(correct) != 1 or correct not in letters:
        raise ScenarioError(
            f"{place}, last field: expected a letter of {letters}, found {shown(correct)}"
        )
    # By text, as HELM has it: where two choices read the same, both are correct.
    answer = check_text(choices[letters.index(correct)], f"{place}, choice {correct}")
    return Item(question, tuple(Reference(choice, choice == answer) for choice in choices), split)


def truthful_qa_task(entry: str, path: Path) -> Task:
    """One correct answer among the incorrect ones; the first fifth of the file is for examples."""
    rows = list(truthful_qa_rows(entry, path))
    train = int(len(rows) * 0.2)
    items = []
    for number, (_, question, best, _, incorrect) in enumerate(rows):
        references = [*(Reference(answer, False) for answer in incorrect), Reference(best, True)]
        # HELM's way of moving the correct one about: by the code of its first character.
        turn = ord(best[0]) % len(references)
        split = "train" if number < train else "valid"
        items.append(Item(question.strip(), tuple(references[turn:] + references[:turn]), split))
    return letter_task(items, "", "Question")


def truthful_qa_rows(entry: str, path: Path) -> list[tuple[str, str, str, list[str], list[str]]]:
    """Rows of TruthfulQA.csv as (place, question, best answer, correct answers, incorrect answers).

    Answers are stripped and end in a full stop, in HELM and in the published TruthfulQA and DoLa code alike.
    """
    file = find_file(path, entry, "truthful_qa", "data", "TruthfulQA.csv")
    rows = []
    for number, (place, row) in enumerate(read_csv(file)):
        if number == 0:
            row[:1] = [name.lstrip("\ufeff") for name in row[:1]]
            if row != TRUTHFUL_QA_COLUMNS:
                raise ScenarioError(
                    f"{place}: expected the columns {TRUTHFUL_QA_COLUMNS}, found {shown(row)}"
                )
            continue
        if len(row) != len(TRUTHFUL_QA_COLUMNS):
            raise ScenarioError(
                f"{place}: expected {len(TRUTHFUL_QA_COLUMNS)} fields, found {len(row)}: {shown(row)}"
            )
        question = check_text(row[2], f"{place}, field 'Question'")
        best = check_text(row[3], f"{place}, field 'Best Answer'")
        answers = [
            _split(row[column], f"{place}, field {TRUTHFUL_QA_COLUMNS[column]!r}")
            for column in (4, 5)
        ]
        rows.append((place, question, _closed(best), *answers))
    return rows


def _split(answers: str, place: str) -> list[str]:
    check_text(answers.replace(";", " "), place)
    return [_closed(answer) for answer in answers.split(";") if answer.strip()]


def _closed(answer: str) -> str:
    answer = answer.strip()
    return answer if answer.endswith(".") else f"{answer}."
