"""What a row of questions says, whichever of the field's usual names it uses."""

from dataclasses import dataclass, replace

from effchal.config.choices import Match
from effchal.evaluation.questions.choices import choices_of, correct_of, labels_of
from effchal.evaluation.questions.row_fields import (
    ANSWERS,
    CHOICES,
    GROUPS,
    PROMPTS,
    Number,
    as_text,
    no_question,
    one_of,
    present,
    refuse_misspelt,
    stops_of,
    temperature_of,
    whole,
    word_of,
)
from effchal.evaluation.scenarios.types import ScenarioError
from effchal.mixing.formats import turns_in
from effchal.mixing.rows import DataRow
from effchal.prompts.encoder import Turn

LETTER = "letter"  # a `match` of choices: the model is asked for an option letter
LETTER_TOKENS = 8  # for an answer by letter, where the row gives no other limit


@dataclass(frozen=True)
class Question:
    """A row as a question, before it is known how answers are graded."""

    row: DataRow
    kind: str  # answered, choices, letters or messages
    prompt: str  # empty for messages
    turns: tuple[Turn, ...]  # messages alone
    answers: tuple[str, ...]  # right ones, as text; empty where a function grades
    answer_is_number: bool
    choices: tuple[str, ...]
    correct: tuple[int, ...]  # positions of the right choices, the best one first
    match: Match | None  # as the row says
    max_new_tokens: int
    stops: tuple[str, ...]
    temperature: float
    id: str | None
    group: str | None


def read_question(row: DataRow, max_new_tokens: int, may_lack_answer: bool) -> Question:
    """The question of a row.

    Args:
        max_new_tokens: of a row that does not say.
        may_lack_answer: a function grades, which may need none.

    Raises:
        ScenarioError: row, fields found, what is wrong with them and what would be right.
    """
    whole_row = row
    row = replace(row, fields=present(row.fields), error=ScenarioError)
    refuse_misspelt(row)
    prompt_name, choices_name = one_of(row, PROMPTS), one_of(row, CHOICES)
    if prompt_name is None:
        no_question(row, "no question")
    turns: tuple[Turn, ...] = ()
    prompt = ""
    if isinstance(row.fields[prompt_name], list):
        turns = tuple(system_of(row) + turns_in(row, prompt_name))
    elif system_of(row):
        turns = (*system_of(row), Turn("user", row.text(prompt_name)))
    else:
        prompt = row.text(prompt_name)
    choices = choices_of(row, choices_name) if choices_name else ()
    way = match_of(row, bool(choices))
    turns, answers = turns_and_answers(row, turns, bool(choices))
    if not answers and not choices and not may_lack_answer:
        no_question(row, "no right answer")
    kind = "messages" if turns else "answered"
    if choices:
        kind = "letters" if way == LETTER else "choices"
    group = one_of(row, GROUPS, first_wins=True)
    return Question(
        row=whole_row,
        kind=kind,
        prompt=prompt,
        turns=turns,
        answers=tuple(map(str, answers)),
        answer_is_number=bool(answers) and all(isinstance(each, Number) for each in answers),
        choices=choices,
        correct=correct_of(row, choices, labels_of(row, choices_name)) if choices else (),
        match=way if isinstance(way, Match) else None,
        max_new_tokens=whole(row, LETTER_TOKENS if kind == "letters" else max_new_tokens),
        stops=stops_of(row),
        temperature=temperature_of(row),
        id=word_of(row, "id"),
        group=word_of(row, group) if group else None,
    )


def system_of(row: DataRow) -> list[Turn]:
    return [Turn("system", row.text("system"))] if "system" in row.fields else []


def match_of(row: DataRow, has_choices: bool) -> Match | str | None:
    """The row's own `match`; LETTER or None for choices.

    Raises:
        ScenarioError: one that is none, or does not go with choices.
    """
    if "match" not in row.fields:
        return None
    if has_choices:
        return row.choice("match", (LETTER,))
    return Match(row.choice("match", tuple(each.value for each in Match)))


def turns_and_answers(
    row: DataRow, turns: tuple[Turn, ...], has_choices: bool
) -> tuple[tuple[Turn, ...], list[str]]:
    """The turns to ask, and the right answers: a field's, or what the assistant says last.

    Raises:
        ScenarioError: both, or turns that ask nothing.
    """
    are_messages = bool(turns)
    name = None if has_choices else one_of(row, ANSWERS)
    answers = [] if name is None else row.fields[name]
    answers = answers if isinstance(answers, list) else [answers]
    if name is not None and not answers:
        raise row.wrong(name, "a text or a list of texts")
    if turns and turns[-1].role == "assistant":
        if answers or has_choices:
            raise row.error(
                f"{row.place}: the last turn is the assistant's, and the row has "
                f"{name or 'choices'!r}; leave one of the two out"
            )
        turns, answers = turns[:-1], [turns[-1].content]
    if are_messages and (not turns or turns[-1].role not in ("user", "tool")):
        raise row.error(f"{row.place}: no user's turn before the answer; add what is asked")
    return turns, [as_text(answer, row, name or "messages") for answer in answers]
