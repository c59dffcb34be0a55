"""Every key of the schema with type, default, unit, choices and meaning, out of its source."""

import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import ModuleType
from typing import Any, get_args

import omegaconf
import yaml

from effchal.config import choices, schema
from effchal.config.nearest import nested

UNIT = re.compile(r"\[([^\]]+)\] ")
NAMED_TYPES = {
    "Any": "str or list[str]",
    "Layers": "low, high or list[int]",
    "list[Layers]": "list of layer sets",
    "Targets": "all-linear or list[str]",
}


@dataclass(frozen=True)
class Key:
    """One key that can be set."""

    name: str  # dotted; <name> stands for a name of the user's choice
    type: str
    default: str  # as one types it; "required" where there is none
    unit: str  # "" without one
    meaning: str
    choices: dict[str, str]  # of a closed choice: the values, each with its meaning or ""

    @property
    def group(self) -> str:
        """`train` of train.lr, "" for a key of the top level."""
        return self.name.rpartition(".")[0].partition(".")[0]


@dataclass(frozen=True)
class Note:
    """What the source says of one field or choice."""

    annotation: str
    unit: str
    meaning: str


def describe(values: Any = None) -> list[Key]:
    """All keys in the schema's order, the keys of no group first.

    Args:
        values: a Config whose values stand in the column of defaults; None gives the schema's.
    """
    keys = list(_keys(schema.Config, values, ""))
    return sorted(keys, key=lambda key: "." in key.name)  # stable: groups stay in order


def groups() -> dict[str, str]:
    """The schema's groups, each with the first line of its docstring."""
    found = {item.name: nested(item.type) for item in fields(schema.Config)}
    return {
        name: (inspect.getdoc(node) or "").splitlines()[0] for name, node in found.items() if node
    }


def spell(value: Any) -> str:
    """A value as YAML has it in one line, e.g. `null`, `[q_proj, v_proj]`, `0.0002`."""
    if value == omegaconf.MISSING:
        return "required"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and (not value or value != value.strip()):
        return repr(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {spell(each)}' for name, each in value.items())}}}"
    if is_dataclass(value):  # what its defaults do not say
        pairs = [(item.name, getattr(value, item.name)) for item in fields(value)]
        defaults = {item.name: _default(item) for item in fields(value)}
        return spell({name: each for name, each in pairs if each != defaults[name]})
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _keys(node: type, values: Any, prefix: str) -> Iterator[Key]:
    notes = _notes(sys.modules[node.__module__])
    for item in fields(node):
        inner = nested(item.type)
        value = _default(item) if values is None else getattr(values, item.name)
        note = notes[f"{node.__name__}.{item.name}"]
        if inner is None or note.annotation.startswith("dict"):
            kind, options = _type(item, note)
            name = prefix + item.name
            yield Key(name, kind, spell(value), note.unit, note.meaning, options)
        if inner is not None and (values is None or value is not None):  # a null group has none
            free = "<name>." if note.annotation.startswith("dict") else ""
            yield from _keys(inner, None if free else value, f"{prefix}{item.name}.{free}")


def _default(item: Field) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _type(item: Field, note: Note) -> tuple[str, dict[str, str]]:
    """The type in words, and a choice's values."""
    options = get_args(item.type) or (item.type,)
    enum = next((o for o in options if isinstance(o, type) and issubclass(o, Enum)), None)
    if enum is None:
        text = NAMED_TYPES.get(note.annotation, note.annotation.replace("None", "null"))
        return re.sub(r"dict\[str, \w+Config\]", "group of sources", text), {}
    values = {c.value: _notes(choices)[f"{enum.__name__}.{c.name}"].meaning for c in enum}
    return ("choice or null" if type(None) in options else "choice"), values


@cache
def _notes(module: ModuleType) -> dict[str, Note]:
    """Of each `Class.field`, its annotation and the comments above and behind it."""
    source = inspect.getsource(module)
    comments, alone = _comments(source)
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    found = {}
    for node, item in [(each, item) for each in classes for item in each.body]:
        match item:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                kind = ast.unparse(annotation)
            case ast.Assign(targets=[ast.Name(id=name)]):
                kind = ""
            case _:
                continue
        first = item.lineno
        while first - 1 in alone:
            first -= 1
        last = item.end_lineno or item.lineno
        text = " ".join(comments[i] for i in range(first, last + 1) if i in comments)
        unit = UNIT.match(text)
        meaning = text[unit.end() :] if unit else text
        found[f"{node.name}.{name}"] = Note(kind, unit[1] if unit else "", meaning)
    return found


def _comments(source: str) -> tuple[dict[int, str], set[int]]:
    """Comments by line, and the lines that hold nothing else."""
    comments: dict[int, str] = {}
    alone: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.removeprefix("#").strip()
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    return comments, alone
