"""Which rows of a source are kept: the conditions of its `where:`, compiled once."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from effchal.config import ConfigError
from effchal.config.errors import shown
from effchal.mixing.rows import DataRow
from effchal.mixing.rows import shown as with_type

CONDITIONS = ("min", "max", "min_chars", "max_chars", "matches", "not")
SHOWN_VALUES = 20  # of a column, in the message of a filter that keeps nothing
Test = Callable[[Any], bool]  # TypeError: of a value that it cannot judge


@dataclass
class Seen:
    """What rows had in the columns of the conditions, for messages."""

    unseen: dict[str, list[Any]] = field(default_factory=dict)  # listed values that no row had
    first: dict[str, dict[str, None]] = field(default_factory=dict)  # the first values, in order

    def add(self, column: str, value: Any) -> None:
        first = self.first.setdefault(column, {})
        if len(first) < SHOWN_VALUES:
            first[str(value)[:50]] = None
        if unseen := self.unseen.get(column):
            found = spellings(value)
            self.unseen[column] = [each for each in unseen if found.isdisjoint(spellings(each))]

    def join(self, later: "Seen") -> None:
        """Add what later rows had."""
        for column, values in later.first.items():
            first = self.first.setdefault(column, {})
            for value in values:
                if len(first) < SHOWN_VALUES:
                    first[value] = None
        for column, left in self.unseen.items():
            both = set(map(repr, later.unseen[column]))  # repr, for 1 is True
            self.unseen[column] = [each for each in left if repr(each) in both]


@dataclass
class Where:
    """The conditions of one source, by column; a row is kept if all of them hold."""

    tests: dict[str, Test]
    seen: Seen

    def keeps(self, row: DataRow) -> bool:
        """Whether all conditions hold.

        Raises:
            row.error: it lacks a column, or has a value there that cannot be compared.
        """
        kept = True
        for column, test in self.tests.items():
            value = value_at(row, column, "which `where` filters by")
            self.seen.add(column, value)
            try:
                kept &= test(value)
            except TypeError as error:
                raise row.error(f"{row.place}, column {column!r}: {error}") from error
        return kept

    def found(self) -> str:
        """What the columns hold, for the message of a filter that keeps nothing."""
        first = self.seen.first.items()
        return "; ".join(f"{name} has {', '.join(values)}" for name, values in first)

    def absent(self) -> list[str]:
        """A line for each column with listed values that no row has."""
        return [
            f"no row where {column} is {', '.join(map(str, values))}"
            for column, values in self.seen.unseen.items()
            if values
        ]


def value_at(row: DataRow, column: str, purpose: str) -> Any:
    """The value of a column; `meta.lang` is the field `lang` of the object in `meta`.

    Raises:
        row.error: no such column.
    """
    if column in row.fields:
        return row.fields[column]
    value: Any = row.fields
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise row.error(
                f"{row.place}: no column {column!r}, {purpose}; it has {', '.join(row.fields)}"
            )
        value = value[part]
    return value


def compile_where(where: dict[str, Any], key: str) -> Where:
    """The conditions, ready to use.

    Args:
        key: of the conditions, for messages: data_mix.sources.<name>.where.

    Raises:
        ConfigError: a condition that is none.
    """
    tests = {column: _test(value, f"{key}.{column}") for column, value in where.items()}
    unseen = {
        column: listed if isinstance(listed, list) else [listed]
        for column, listed in where.items()
        if not isinstance(listed, dict)
    }
    return Where(tests, Seen(unseen))


def _test(condition: Any, key: str) -> Test:
    if isinstance(condition, dict):
        unknown = [name for name in condition if name not in CONDITIONS]
        if unknown or not condition:
            raise ConfigError(
                f"{key} has {shown(condition)}; a condition is a value, a list of values, or an "
                f"object with {', '.join(CONDITIONS)}. A nested column is written with a dot: "
                "where={meta.lang: en}"
            )
        tests = [_part(name, value, f"{key}.{name}") for name, value in condition.items()]
        for low, high in (("min", "max"), ("min_chars", "max_chars")):
            if low in condition and high in condition and condition[low] > condition[high]:
                raise ConfigError(f"{key}: {low} is above {high}, so no row can pass")
        return lambda value: all(test(value) for test in tests)
    listed = condition if isinstance(condition, list) else [condition]
    if not listed or any(isinstance(value, (list, dict)) for value in listed):
        raise ConfigError(f"{key} must be a value or a list of values, got {shown(condition)}")
    wanted = set().union(*map(spellings, listed))
    return lambda value: not wanted.isdisjoint(spellings(value))


def _part(name: str, wanted: Any, key: str) -> Test:
    """The test of one key of an object of conditions."""
    if name == "not":
        test = _test(wanted, key)
        return lambda value: not test(value)
    if name == "matches":
        try:
            pattern = re.compile(wanted)
        except (re.error, TypeError) as error:
            raise ConfigError(
                f"{key} is no regular expression ({error}): {shown(wanted)}"
            ) from error
        return lambda value: value is not None and bool(pattern.search(str(value)))
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)):
        raise ConfigError(f"{key} must be a number, got {shown(wanted)}")
    measure = length_of if name.endswith("_chars") else number_of
    sign = 1 if name.startswith("min") else -1

    def holds(value: Any) -> bool:
        found = measure(value)
        return found is not None and sign * found >= sign * wanted

    return holds


def spellings(value: Any) -> set[str]:
    """The texts that stand for a value: 5 is "5", 5.0 is also "5", true is also "True"."""
    texts = {str(value)}
    if isinstance(value, bool):
        texts.add(str(value).lower())
    elif isinstance(value, float) and value.is_integer():
        texts.add(str(int(value)))
    return texts


def number_of(value: Any) -> float | None:
    """A number, also spelled as a text; None of nothing and of an empty text."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    raise TypeError(f"`where` compares it with a number, found {with_type(value)}")


def length_of(value: Any) -> int:
    """Characters of a text, items of a list, 0 of nothing."""
    if value is None or isinstance(value, (str, list)):
        return len(value or "")
    raise TypeError(f"`where` measures the length of texts and lists, found {with_type(value)}")
