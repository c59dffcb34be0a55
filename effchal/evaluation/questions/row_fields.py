"""Fields of a row of questions: their usual names, and what is wrong with a value."""

import difflib
import json
import math
from typing import Any, NoReturn

from effchal.mixing.rows import DataRow, check_text, shown

PROMPTS = ("prompt", "question", "input", "instruction", "messages")
ANSWERS = ("answers", "answer", "ideal", "target", "targets", "expected", "output", "completion")
CORRECT = ("correct", "answer", "answers", "ideal", "target", "label", "answerKey")
CHOICES = ("choices", "options")
GROUPS = ("group", "category", "subject", "split")
OTHERS = ("match", "id", "system", "max_new_tokens", "stop", "temperature")
KNOWN = (*PROMPTS, *ANSWERS, *CORRECT, *CHOICES, *GROUPS, *OTHERS)
MISSPELT = 0.82  # likeness from which another name is taken for a slip
IN_TABLES = ("messages", "answers", "choices", "options", "correct", "stop")  # spelt as JSON
NUMBERS_IN_TABLES = ("max_new_tokens", "temperature")
FORMS = {
    "answered": '{"prompt": "2 + 2 =", "answers": ["4"]}',
    "choices": '{"prompt": "The sky is", "choices": [" blue", " green"], "correct": [0]}',
    "messages": '{"messages": [{"role": "user", "content": "2 + 2?"}], "answers": ["4"]}',
}


class Number(str):
    """A right answer that the file gives as a number."""


def present(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that say something: not null, and no empty cell of a table."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def from_table(fields: dict[str, Any]) -> dict[str, Any]:
    """The cells of a table, with lists and numbers that are spelt as JSON."""
    found = dict(fields)
    for name in (*IN_TABLES, *NUMBERS_IN_TABLES):
        cell = found.get(name)
        if isinstance(cell, str) and (name in NUMBERS_IN_TABLES or cell[:1] in ("[", "{")):
            try:
                found[name] = json.loads(cell)
            except ValueError:
                continue  # the check of the field says what is wrong
    return found


def one_of(row: DataRow, names: tuple[str, ...], first_wins: bool = False) -> str | None:
    """The one of some names of a thing that a row has; None for none.

    Raises:
        row.error: it has two.
    """
    found = [name for name in names if name in row.fields]
    if len(found) > 1 and not first_wins:
        raise row.error(
            f"{row.place}: {found[0]!r} and {found[1]!r} may both be meant; rename or remove one"
        )
    return found[0] if found else None


def refuse_misspelt(row: DataRow) -> None:
    """Raise row.error for a field whose name is nearly that of a known one."""
    for name in row.fields:
        if name in KNOWN:
            continue
        near = difflib.get_close_matches(name, KNOWN, 1, MISSPELT)
        if near and near[0] not in row.fields:
            raise row.error(f"{row.place}: unknown field {name!r}; is {near[0]!r} meant? rename it")


def no_question(row: DataRow, lacks: str) -> NoReturn:
    """Raise row.error with what the row has, and the form that is nearest to it."""
    nearest = "choices" if any(name in row.fields for name in CHOICES) else "answered"
    nearest = "messages" if "messages" in row.fields else nearest
    has = ", ".join(row.fields) or "no field"
    grader = ", or give evaluate.grader=<file.py>:<function>" if lacks == "no right answer" else ""
    raise row.error(
        f"{row.place}: {lacks} among its fields ({has}); {nearest} looks like "
        f"{FORMS[nearest]}{grader}"
    )


def as_text(value: Any, row: DataRow, name: str) -> str:
    """A right answer as text; that of a number is a Number.

    Raises:
        row.error: neither a text nor a finite number.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Number(json.dumps(value))
    return check_text(value, f"{row.place}, field {name!r}", row.error)


def whole(row: DataRow, default: int) -> int:
    value = row.fields.get("max_new_tokens", default)
    if type(value) is not int or value < 1:
        raise row.wrong("max_new_tokens", "a whole number of at least 1")
    return value


def stops_of(row: DataRow) -> tuple[str, ...]:
    value = row.fields.get("stop", [])
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise row.wrong("stop", "a text or a list of texts")
    return tuple(stops)


def temperature_of(row: DataRow) -> float:
    value = row.fields.get("temperature", 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise row.wrong("temperature", "a number of at least 0")
    return float(value)


def word_of(row: DataRow, name: str) -> str | None:
    """A name of a question or of its group: a text, or a whole number as text."""
    value = row.fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise row.error(f"{row.place}, field {name!r}: expected a name, found {shown(value)}")
    return str(value).strip()
