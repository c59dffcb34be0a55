"""Kinds of data that people have: each declared in a line, right and wrong.

Each is written into the working folder, so that it is typed as a user would.
"""

import functools
import gzip
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

Talk = list[tuple[str, str]]  # role and text of each turn


@dataclass(frozen=True)
class Kind:
    """One kind of data.

    Attributes:
        words: what is typed behind `effchal train`.
        write: makes the data.
        talk: its first row, as a client of the server spells it.
        spoil: makes a wrong version.
        message: part of what is said of that one.
        learned: the texts that are learned; None for all answers.
    """

    words: tuple[str, ...]
    write: Callable[[], object]
    talk: Talk
    spoil: Callable[[], object]
    message: str
    learned: tuple[str, ...] | None = None

    @property
    def targets(self) -> list[str]:
        answers = [text for role, text in self.talk if role == "assistant"]
        return answers if self.learned is None else list(self.learned)


def write_lines(row: dict[str, Any]) -> None:
    Path("mine.jsonl").write_text(json.dumps(row) + "\n")


def of_rows(
    row: dict[str, Any],
    talk: Talk,
    wrong: dict[str, Any],
    message: str,
    *words: str,
    learned: tuple[str, ...] | None = None,
) -> Kind:
    write, spoil = functools.partial(write_lines, row), functools.partial(write_lines, row | wrong)
    return Kind(("data=mine.jsonl", *words), write, talk, spoil, message, learned)


def turn(role: str, content: Any, **keys: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | keys


ASKED = [("user", "Capital of Peru?"), ("assistant", "Lima")]
PRIME = [{"type": "text", "text": "Name a "}, {"type": "text", "text": "prime."}]
WEATHER = {"name": "weather", "arguments": '{"city": "Oslo"}'}
CALLS = [{"type": "function", "function": WEATHER}]
CALL = json.dumps(WEATHER | {"arguments": {"city": "Oslo"}})  # an object, as prompts spell it
CALLED = [turn("assistant", None, tool_calls=CALLS), turn("tool", "4 C")]
NO = [turn("user", "Say no."), turn("assistant", "Yes", weight=0), turn("user", "Say no, please.")]
SHAREGPT = [{"from": "human", "value": "Capital of Peru?"}, {"from": "gpt", "value": "Lima"}]
COLUMNS = "data_mix.sources.mine.columns={prompt: question, completion: meta.gold}"
FORMATS = {
    "`messages`, a system turn": of_rows(
        {"messages": [turn("system", "Be brief."), *(turn(*each) for each in ASKED)]},
        [("system", "Be brief."), *ASKED],
        {"messages": [turn("user", "Capital of Peru?")]},
        "the last turn is user's; add the answer",
    ),
    "`messages`, parts of text": of_rows(
        {"messages": [turn("user", PRIME), turn("assistant", "Seven")]},
        [("user", "Name a prime."), ("assistant", "Seven")],
        {"messages": [turn("user", [{"type": "image_url"}]), turn("assistant", "Seven")]},
        "turn 1, field 'content', field 'type': expected one of text",
    ),
    "`messages`, a tool": of_rows(
        {
            "messages": [turn("user", "Weather?"), *CALLED, turn("assistant", "4")],
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        },
        # The server takes what a tool said as a user's turn, as training does.
        [("user", "Weather?"), ("assistant", CALL), ("user", "4 C"), ("assistant", "4")],
        {"messages": [turn("user", "Weather?"), turn("assistant", None, tool_calls=[CALL])]},
        "turn 2, field 'tool_calls', turn 1: expected an object",
    ),
    "`messages`, `weight: 0`": of_rows(
        {"messages": [*NO, turn("assistant", "No", weight=1)]},
        [*((each["role"], each["content"]) for each in NO), ("assistant", "No")],
        {"messages": [*NO, turn("assistant", "No", weight=0.5)]},
        "turn 4, field 'weight': expected 0 or 1",
        learned=("No",),
    ),
    "`sharegpt`": of_rows(
        {"conversations": [{"from": "system", "value": "Be brief."}, *SHAREGPT]},
        [("system", "Be brief."), *ASKED],
        {"conversations": [SHAREGPT[0], {"from": "bot", "value": "Lima"}]},
        "turn 2, field 'from': expected one of human",
    ),
    "`lima`": of_rows(
        {"conversations": ["2 + 3?", "5", "Times two?", "10"]},
        [("user", "2 + 3?"), ("assistant", "5"), ("user", "Times two?"), ("assistant", "10")],
        {"conversations": ["2 + 3?", "5", "Times two?"]},
        "3 turns; it takes question and answer in turn",
    ),
    "`platypus`, Alpaca's too": of_rows(
        {"instruction": "Double it.", "input": "2", "output": "4"},
        [("user", "Double it.\n\n2"), ("assistant", "4")],
        {"output": ""},
        "field 'output': expected text, found str ''",
    ),
    "`prompt_completion`": of_rows(
        {"prompt": "Square of 3: ", "completion": "9"},
        [("user", "Square of 3: "), ("assistant", "9")],
        {"completion": 9},
        "field 'completion': expected text, found int 9",
    ),
    "`prompt_completion` of messages": of_rows(
        {"prompt": [turn(*ASKED[0])], "completion": [turn(*ASKED[1])]},
        ASKED,
        {"completion": [turn("user", "Lima")]},
        "field 'completion': the last turn is user's",
    ),
    "columns of your own": of_rows(
        {"question": "Capital of Peru?", "meta": {"gold": "Lima"}},
        ASKED,
        {"meta": {"golden": "Lima"}},
        "no column 'meta.gold', which `columns` reads as completion",
        COLUMNS,
    ),
    "`text`": of_rows(
        {"text": "The kettle is on the stove."},
        [("text", "The kettle is on the stove.")],
        {"text": ["The kettle"]},
        "field 'text': expected text, found list",
        learned=("he kettle is on the stove.",),  # nothing comes before the first token
    ),
}

QUOTED = [{"prompt": f'Say "{i}", then a comma.', "completion": f'"{i}",\ndone'} for i in range(3)]
FIRST = [("user", QUOTED[0]["prompt"]), ("assistant", QUOTED[0]["completion"])]
LINES = "".join(json.dumps(row) + "\n" for row in QUOTED).encode()


def table(separator: str) -> str:
    rows = [row.values() for row in QUOTED]
    quoted = [[f'"{v.replace(chr(34), chr(34) * 2)}"' for v in row] for row in rows]
    return "\n".join(separator.join(row) for row in (["prompt", "completion"], *quoted))


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


def arrow() -> bytes:
    rows, out = pyarrow.Table.from_pylist(QUOTED), pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(out, rows.schema) as writer:
        writer.write_table(rows)
    return out.getvalue().to_pybytes()


def parquet() -> bytes:
    out = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(QUOTED), out)
    return out.getvalue().to_pybytes()


def save_to_disk(*splits: str) -> None:
    import datasets

    rows = datasets.Dataset.from_list(QUOTED)
    datasets.DatasetDict(dict.fromkeys(splits, rows)).save_to_disk("mine")


def put(path: str, content: bytes | str) -> Callable[[], object]:
    """What writes a file of that name."""

    def write() -> None:
        file = Path(path)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def of_file(name: str, content: bytes | str, wrong: bytes | str, message: str) -> Kind:
    return Kind((f"data={name}",), put(name, content), FIRST, put(name, wrong), message)


FILES = {
    "`.csv`": of_file("mine.csv", table(","), table(";"), "';' seems to separate its columns"),
    "`.tsv`": of_file("mine.tsv", table("\t"), table(","), "',' seems to separate its columns"),
    "`.json`": of_file("mine.json", json.dumps(QUOTED), '{"rows": 3}', "a list of rows"),
    "`.parquet`": of_file("mine.parquet", parquet(), LINES, "not a readable parquet file ("),
    "`.arrow`": of_file("mine.arrow", arrow(), LINES, "not a readable arrow file ("),
    "`.gz`": of_file("mine.jsonl.gz", gzip.compress(LINES), LINES, "not a whole gzip file"),
    "`.zst`": of_file("mine.jsonl.zst", zstd(LINES), zstd(LINES)[:-8], "not a whole zstd file"),
    "a folder": Kind(
        ("data=mine",),
        put("mine/part-0.jsonl", LINES),
        FIRST,
        put("mine/notes.txt", "Nothing yet."),
        "it has notes.txt",
    ),
    "a pattern": Kind(
        ("data=mine/part-*.jsonl",),
        put("mine/part-0.jsonl", LINES),
        FIRST,
        put("mine/other.jsonl", LINES),
        "no file matches mine/part-*.jsonl",
    ),
    "`save_to_disk`": Kind(
        ("data=mine",),
        functools.partial(save_to_disk, "train", "test"),
        FIRST,
        functools.partial(save_to_disk, "test"),
        "no split train; it has test",
    ),
}
KINDS = FORMATS | FILES


def declared() -> list[str]:
    """The table of docs/data.md."""
    lines = ["| data | declared | learned of its first row |", "|---|---|---|"]
    for name, kind in KINDS.items():
        texts = ", ".join(f"`{text}`" for text in kind.targets).replace("\n", "↵")
        lines.append(f"| {name} | `effchal train {shlex.join(kind.words)}` | {texts} |")
    return lines
