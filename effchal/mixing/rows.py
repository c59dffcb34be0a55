"""Rows of data files that know their place: an error names file, line, field and value found."""

import codecs
import contextlib
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from effchal.config import ConfigError

_ENDS_IN_LINE = ", and the file ends inside it: was it written to the end?"
_ONLY_RETURNS = "; its lines end in CR alone, convert them: tr '\\r' '\\n' < <file> > <new>.jsonl"
_IS_LIST = "; the file is one JSON list, so its name must end in .json"


@dataclass(frozen=True)
class DataRow:
    """An object with named fields, from a data file."""

    fields: dict[str, Any]
    place: str  # for messages: "<file>, line 3"
    error: type[ConfigError]  # what the checks raise

    @classmethod
    def of(cls, value: Any, place: str, error: type[ConfigError]) -> "DataRow":
        """The value as a row. Raises `error` if it is not a dict."""
        if not isinstance(value, dict):
            raise error(f"{place}: expected an object with named fields, found {shown(value)}")
        return cls(value, place, error)

    def wrong(self, name: str, expected: str) -> ConfigError:
        """The error for a field that is not as expected; the caller raises it."""
        found = shown(self.fields.get(name))
        return self.error(f"{self.place}, field {name!r}: expected {expected}, found {found}")

    def text(self, name: str, default: str | None = None, may_be_empty: bool = False) -> str:
        value = self.fields.get(name, default)
        return check_text(value, f"{self.place}, field {name!r}", self.error, may_be_empty)

    def texts(self, name: str, may_be_empty: bool = False) -> list[str]:
        """A list of at least one text, none of them empty; `may_be_empty` lifts both."""
        values = self.fields.get(name)
        if not isinstance(values, list) or not (values or may_be_empty):
            raise self.wrong(name, "a list of texts")
        places = (f"{self.place}, field {name!r}, item {i}" for i in range(1, len(values) + 1))
        return [
            check_text(value, place, self.error, may_be_empty)
            for value, place in zip(values, places, strict=True)
        ]

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """A text that is one of a closed list."""
        value = self.text(name)
        if value not in allowed:
            raise self.wrong(name, f"one of {', '.join(allowed)}")
        return value

    def nested(self, name: str) -> "DataRow":
        """A field that is itself an object with named fields."""
        return DataRow.of(self.fields.get(name), f"{self.place}, field {name!r}", self.error)


def unpacked_name(path: Path) -> str:
    """The name of a file without .gz or .zst."""
    return path.stem if path.suffix.lower() in (".gz", ".zst") else path.name


def open_rows(path: Path) -> IO[bytes]:
    """The bytes of a data file, unpacked where its name ends in .gz or .zst."""
    match path.suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(path))
        case ".zst":
            import pyarrow  # comes with datasets; only training needs it

            source: Any = pyarrow.input_stream(str(path), compression="zstd")
            return io.BufferedReader(source)
    return path.open("rb")


def read_jsonl(path: Path, error: type[ConfigError]) -> Iterator[DataRow]:
    """The objects of a file with one on each line.

    Raises:
        error: a line that is empty, not UTF-8, not JSON, not an object, or has a key twice.
    """
    with open_rows(path) as lines, unpacking(path, error):
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            # Without its line end, or an error at the end of the line would stand in the next one.
            content = line.rstrip(b"\r\n").removeprefix(codecs.BOM_UTF8)
            if not content.strip():
                raise error(f"{place}: empty line; remove it")
            hint = "" if line.endswith(b"\n") else _ENDS_IN_LINE
            if b"\r" in content:
                hint = _ONLY_RETURNS
            elif number == 1 and re.match(rb"\s*\[\s*(\{|$)", content):
                hint = _IS_LIST
            value = parse_json(content, place, error, hint, unique_keys=True)
            if hint is _IS_LIST:
                raise error(f"{place}: expected one object on each line{hint}")
            yield DataRow.of(value, place, error)


def read_csv(path: Path, error: type[ConfigError]) -> Iterator[tuple[str, list[str]]]:
    """Rows with their place for messages.

    Raises:
        error: a row that is not UTF-8 or not CSV.
    """
    # Like HELM: without newline="", a line end inside a quoted field is always "\n".
    with path.open(encoding="utf-8") as lines:
        reader = csv.reader(lines)
        try:
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
        except UnicodeDecodeError as reason:
            raise error(f"{path}, after line {reader.line_num}: not UTF-8") from reason
        except csv.Error as reason:
            raise error(f"{path}, line {reader.line_num}: not CSV ({reason})") from reason


def parse_json(
    content: bytes, place: str, error: type[ConfigError], hint: str = "", unique_keys: bool = False
) -> Any:
    """The value of a file, or of one of its lines.

    Args:
        hint: ends the message where the content is not JSON.
        unique_keys: refuse an object that has a key twice, of which JSON would drop the first.

    Raises:
        error: not UTF-8, not JSON, or more than the parser can hold.
    """
    hook = partial(_unique, place=place, error=error) if unique_keys else None
    try:
        return json.loads(content.decode("utf-8").removeprefix("\ufeff"), object_pairs_hook=hook)
    except UnicodeDecodeError as reason:
        raise error(f"{place}, byte {reason.start + 1}: {not_utf8(content)}") from reason
    except json.JSONDecodeError as reason:
        line = f"line {reason.lineno}, " if reason.lineno > 1 else ""
        where = f"{place}, {line}column {reason.colno}"
        raise error(f"{where}: not JSON ({reason.msg}){hint}") from reason
    except RecursionError as reason:
        raise error(f"{place}: brackets nested too deeply") from reason
    except error:
        raise
    except ValueError as reason:  # Python reads no integer of more than 4,300 digits
        raise error(f"{place}: a number with too many digits; write it as text") from reason


def not_utf8(content: bytes) -> str:
    """What to say of content that is not UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "not UTF-8 but UTF-16, convert it: iconv -f UTF-16 -t UTF-8 <file> > <new>"
    return "not UTF-8"


def _unique(pairs: list[tuple[str, Any]], place: str, error: type[ConfigError]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise error(f"{place}: the key {twice!r} stands twice; remove one of the two")
    return value


@contextlib.contextmanager
def unpacking(path: Path, error: type[ConfigError]) -> Iterator[None]:
    """Raise `error` where a file that is read is not the whole packed file of its name."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as reason:
        raise error(f"{path}: not a whole gzip file ({reason}); pack it again") from reason
    except OSError as reason:  # of pyarrow, without a number
        if path.suffix.lower() != ".zst" or reason.errno is not None:
            raise
        raise error(f"{path}: not a whole zstd file ({reason}); pack it again") from reason


def check_text(value: Any, place: str, error: type[ConfigError], may_be_empty: bool = False) -> str:
    """The value. Raises `error` if it is no text, only white space, or has half a character."""
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        wrong: Any = error(
            f"{place}: expected text, found {shown(value)}; correct or remove the row"
        )
        wrong.is_empty_text = value is None or (isinstance(value, str) and not value.strip())
        raise wrong
    try:
        value.encode("utf-8")  # JSON can spell half a surrogate pair, which is no character
    except UnicodeEncodeError as reason:
        raise error(f"{place}: half a character ({reason.reason}) in {shown(value)}") from reason
    return value


def shown(value: Any) -> str:
    """A value for a message, cut to 100 characters."""
    text = "nothing" if value is None else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 100 else f"{text[:97]}..."
