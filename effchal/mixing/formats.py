"""How a row spells a conversation: one reader of turns for each format, and which one fits."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

from effchal.config.choices import DataFormat
from effchal.mixing.rows import DataRow, check_text
from effchal.mixing.where import value_at
from effchal.prompts.encoder import Turn, with_tool_calls

LOOKED_AT = 20  # rows that must agree on a format
SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SHAREGPT |= {
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
ROLES = {"developer": "system", "function": "tool"}  # of OpenAI's messages, beside the usual ones
FIELDS = {  # what each format needs, the likeliest first
    DataFormat.messages: ("messages",),
    DataFormat.lima: ("conversations",),
    DataFormat.platypus: ("instruction", "output"),
    DataFormat.prompt_completion: ("prompt", "completion"),
    DataFormat.text: ("text",),
}


def format_of_rows(
    rows: Iterator[DataRow], wanted: DataFormat, columns: dict[str, str], key: str
) -> tuple[DataFormat | None, Iterator[DataRow]]:
    """The format of rows, None if there is no row, and all the rows again.

    Args:
        columns: mapped ones; the fields that they name decide, if they make a format.
        key: of the source, for messages: data_mix.sources.<name>.

    Raises:
        ConfigError: `auto`, and the first rows fit no format, or different ones.
    """
    first = list(itertools.islice(rows, LOOKED_AT))
    if not first:
        return None, rows
    rows = itertools.chain(first, rows)
    if wanted is not DataFormat.auto:
        return wanted, rows
    found: dict[DataFormat, DataRow] = {}
    for row in first:
        mapped = {name: row.fields[name] for name in columns}
        found.setdefault(format_of(mapped) or format_of(row.fields) or _no_format(row, key), row)
    if len(found) > 1:
        (one, at), (other, there), *_ = found.items()
        raise there.error(
            f"{at.place} is {one.value} and {there.place} is {other.value}; "
            "one source has one format"
        )
    return next(iter(found)), rows


def format_of(fields: dict[str, Any]) -> DataFormat | None:
    """The format whose fields a row has; None if it has those of no format."""
    for each, names in FIELDS.items():
        if all(name in fields for name in names):
            return _kind_of_conversations(fields) if each is DataFormat.lima else each
    return None


def _no_format(row: DataRow, key: str) -> NoReturn:
    shared = {each: sum(name in row.fields for name in names) for each, names in FIELDS.items()}
    nearest = max(FIELDS, key=lambda each: shared[each])
    if not shared[nearest]:
        nearest = DataFormat.prompt_completion
    lacks = [name for name in FIELDS[nearest] if name not in row.fields]
    columns = ", ".join(f"{name}: <column>" for name in lacks)
    raise row.error(
        f"{row.place}: no known format. It has {', '.join(row.fields) or 'no field'}; "
        f"{nearest.value} needs {', '.join(lacks)}{', too' if shared[nearest] else ''}. "
        f"Name its columns: {key}.columns={{{columns}}}"
    )


def turns_of(row: DataRow, kind: DataFormat, key: str) -> list[Turn]:
    """The conversation of a row.

    Args:
        key: of the source, for messages: data_mix.sources.<name>.

    Raises:
        row.error: the row is not of that format; the message names the one that it looks like.
    """
    needed = FIELDS.get(kind, ("conversations",))
    if kind is DataFormat.messages and "conversations" in row.fields:
        needed = ("conversations",)
    lacks = [name for name in needed if name not in row.fields]
    try:
        if not lacks:
            return TURNS[kind](row)
        has = ", ".join(row.fields) or "no field"
        raise row.error(
            f"{row.place}: {kind.value} needs {', '.join(lacks)}, and the row has {has}"
        )
    except row.error as error:
        other = format_of(row.fields)
        if other in (None, kind):
            raise
        raise row.error(
            f"{error}; the row looks like {other.value}: {key}.format={other.value}"
        ) from error


def _kind_of_conversations(fields: dict[str, Any]) -> DataFormat:
    """Of the formats that call it so: texts in turn, ShareGPT's or OpenAI's objects."""
    turns = fields["conversations"]
    first = turns[0] if isinstance(turns, list) and turns else None
    if isinstance(first, dict):
        return DataFormat.sharegpt if "from" in first else DataFormat.messages
    return DataFormat.lima


def renamed(row: DataRow, columns: dict[str, str]) -> DataRow:
    """The row with the fields of a format in place of columns of other names.

    Raises:
        row.error: it lacks a column.
    """
    if not columns:
        return row
    values = {
        name: value_at(row, column, f"which `columns` reads as {name}")
        for name, column in columns.items()
    }
    return replace(row, fields=row.fields | values)


def system_turn(row: DataRow) -> list[Turn]:
    """The system turn of a row that has one, first in its conversation."""
    if row.fields.get("system") is None:
        return []
    text = row.text("system", may_be_empty=True)
    return [Turn("system", text)] if text.strip() else []


def lima_turns(row: DataRow) -> list[Turn]:
    texts = row.fields.get("conversations")
    if not isinstance(texts, list):
        raise row.wrong("conversations", "a list of texts, question and answer in turn")
    field = f"{row.place}, field 'conversations'"
    roles = itertools.cycle(("user", "assistant"))
    turns = [
        Turn(role, check_text(text, f"{field}, turn {i}", row.error))
        for i, (text, role) in enumerate(zip(texts, roles, strict=False), start=1)
    ]
    if not turns or len(turns) % 2:
        raise row.error(
            f"{field}: {len(turns)} turns; it takes question and answer in turn, "
            "ending with an answer"
        )
    return system_turn(row) + turns


def platypus_turns(row: DataRow) -> list[Turn]:
    question = row.text("instruction")
    context = "" if row.fields.get("input") is None else row.text("input", may_be_empty=True)
    if context.strip():
        question = f"{question}\n\n{context}"
    answer = Turn("assistant", row.text("output"))
    return [*system_turn(row), Turn("user", question), answer]


def messages_turns(row: DataRow) -> list[Turn]:
    name = "messages" if "messages" in row.fields else "conversations"
    return _complete(system_turn(row) + turns_in(row, name), row, name)


def sharegpt_turns(row: DataRow) -> list[Turn]:
    turns = system_turn(row)
    for turn in _objects(row, "conversations"):
        role = SHAREGPT[turn.choice("from", tuple(SHAREGPT))]
        turns.append(Turn(role, turn.text("value"), _learns(turn)))
    return _complete(turns, row, "conversations")


def prompt_completion_turns(row: DataRow) -> list[Turn]:
    if isinstance(row.fields.get("prompt"), str):
        turns = [Turn("user", row.text("prompt")), Turn("assistant", row.text("completion"))]
        return system_turn(row) + turns
    turns = system_turn(row) + turns_in(row, "prompt") + turns_in(row, "completion")
    return _complete(turns, row, "completion")


def text_turns(row: DataRow) -> list[Turn]:
    return [Turn("text", row.text("text"))]


def turns_in(row: DataRow, name: str) -> list[Turn]:
    """The turns of a field in OpenAI's form."""
    turns = []
    for message in _objects(row, name):
        allowed = ("system", "user", "assistant", "tool", *ROLES)
        role = message.choice("role", allowed)
        turns.append(Turn(ROLES.get(role, role), _content(message), _learns(message)))
    return turns


def _content(message: DataRow) -> str:
    """The text of a message, of which the calls of tools are part, as JSON."""
    if not message.fields.get("tool_calls"):
        return _text(message)
    calls = _objects(message, "tool_calls")
    functions = [call.nested("function") if "function" in call.fields else call for call in calls]
    text = _text(message) if message.fields.get("content") else ""
    return with_tool_calls(text, [function.fields for function in functions])


def _text(message: DataRow) -> str:
    """A text, or a list of parts of text."""
    content = message.fields.get("content")
    if not isinstance(content, list):
        return message.text("content")
    parts = [
        DataRow.of(part, f"{message.place}, field 'content'", message.error) for part in content
    ]
    for part in parts:
        part.choice("type", ("text",))
    text = "".join(part.text("text", may_be_empty=True) for part in parts)
    return check_text(text, f"{message.place}, field 'content'", message.error)


def _learns(turn: DataRow) -> bool:
    """Whether the turn's answer is learned from; `weight: 0` says no."""
    weight = turn.fields.get("weight")
    if weight not in (None, 0, 1):
        raise turn.wrong("weight", "0 or 1")
    return weight != 0


def _objects(row: DataRow, name: str) -> list[DataRow]:
    values = row.fields.get(name)
    if not isinstance(values, list) or not values:
        raise row.wrong(name, "a list of objects")
    place = f"{row.place}, field {name!r}"
    return [DataRow.of(v, f"{place}, turn {i}", row.error) for i, v in enumerate(values, start=1)]


def _complete(turns: list[Turn], row: DataRow, name: str) -> list[Turn]:
    """The turns, if they ask something and end with an answer to learn from."""
    problem = ""
    if turns[-1].role != "assistant":
        problem = f"the last turn is {turns[-1].role}'s; add the answer, or leave the turn out"
    elif not any(turn.role == "user" for turn in turns):
        problem = "no turn is a user's"
    elif not any(turn.role == "assistant" and turn.learn for turn in turns):
        problem = "every answer has weight 0, so there is nothing to learn"
    if problem:
        raise row.error(f"{row.place}, field {name!r}: {problem}")
    return turns


TURNS: dict[DataFormat, Callable[[DataRow], list[Turn]]] = {
    DataFormat.lima: lima_turns,
    DataFormat.platypus: platypus_turns,
    DataFormat.messages: messages_turns,
    DataFormat.sharegpt: sharegpt_turns,
    DataFormat.prompt_completion: prompt_completion_turns,
    DataFormat.text: text_turns,
}
