"""The choices of a row and which of them are right, in the spellings of the usual files."""

from typing import Any

from effchal.evaluation.questions.row_fields import CORRECT, no_question, one_of
from effchal.mixing.rows import DataRow, check_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choices_of(row: DataRow, name: str) -> tuple[str, ...]:
    """The texts of a list, or of ARC's {"text": [...], "label": [...]}."""
    value = row.fields[name]
    texts = value.get("text") if isinstance(value, dict) else value
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(LETTERS):
        raise row.wrong(name, f"a list of 2 to {len(LETTERS)} texts")
    places = (f"{row.place}, field {name!r}, item {i}" for i in range(1, len(texts) + 1))
    return tuple(check_text(t, p, row.error) for t, p in zip(texts, places, strict=True))


def labels_of(row: DataRow, name: str | None) -> list[str]:
    """What the choices are called: A, B, ..., or ARC's labels."""
    value = row.fields.get(name or "")
    labels = value.get("label") if isinstance(value, dict) else None
    return [str(each) for each in labels] if isinstance(labels, list) else list(LETTERS)


def correct_of(row: DataRow, choices: tuple[str, ...], labels: list[str]) -> tuple[int, ...]:
    """Positions from 0 of the right choices.

    They are given as such, or as a letter or the text of a choice; one or a list of them.

    Raises:
        row.error: none, all, one twice, or what could be two of them.
    """
    name = one_of(row, CORRECT)
    if name is None:
        no_question(row, "no right choice")
    value = row.fields[name]
    given = value if isinstance(value, list) else [value]
    found = [position(each, choices, labels) for each in given]
    positions = tuple(each for each in found if each is not None)
    if (
        len(positions) < len(given)
        or len(set(positions)) < len(positions)
        or not 0 < len(positions) < len(choices)
    ):
        raise row.wrong(
            name,
            f"some but not all of the positions 0..{len(choices) - 1}, letters or texts of the "
            "choices, each once",
        )
    return positions


def position(value: Any, choices: tuple[str, ...], labels: list[str]) -> int | None:
    """The position that a value means; None where it means none, or may mean two."""
    if type(value) is int:
        return value if 0 <= value < len(choices) else None
    if not isinstance(value, str):
        return None
    labels = labels[: len(choices)]
    by_text = [i for i, text in enumerate(choices) if text.strip() == value.strip()]
    by_label = [i for i, label in enumerate(labels) if label == value.strip()]
    meant = {*by_text, *by_label}
    if not meant and value.strip().isdecimal() and int(value) < len(choices):
        return int(value)
    return meant.pop() if len(meant) == 1 else None
