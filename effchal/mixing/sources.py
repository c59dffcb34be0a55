"""The examples of one source, one after another: its rows, filtered, checked, and as turns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from effchal.config import DataSourceConfig
from effchal.config.choices import DataFormat
from effchal.mixing.dropped import Dropped
from effchal.mixing.example import Example
from effchal.mixing.formats import format_of_rows, renamed, turns_of
from effchal.mixing.locate import Located
from effchal.mixing.readers import DataError, read_rows
from effchal.mixing.where import Seen, compile_where
from effchal.prompts.encoder import Turn


@dataclass
class FileSummary:
    """What is known of a file, beside its examples, once all of them are read."""

    format: DataFormat | None = None  # None: no row so far
    rows_read: int = 0
    rows_kept: int = 0  # by `where`
    roles: set[str] = field(default_factory=set)
    empty: Dropped = field(default_factory=Dropped)
    seen: Seen = field(default_factory=Seen)  # by `where`


@dataclass(frozen=True)
class FileReader:
    """Reads files of a source, each by itself. It can be pickled."""

    name: str  # of the source
    cfg: DataSourceConfig
    drop_empty: bool  # leave out rows with a turn without text, which else are an error

    @property
    def key(self) -> str:
        return f"data_mix.sources.{self.name}"

    def read(self, path: Path, summary: FileSummary) -> Iterator[tuple[int, tuple[Turn, ...]]]:
        """The examples that `where` keeps, each with the number of its row in the file, from 0.

        Args:
            summary: filled in on the way.

        Raises:
            DataError: a file or a row that cannot be used.
        """
        where = compile_where(self.cfg.where, f"{self.key}.where")
        summary.seen = where.seen
        named = (renamed(row, self.cfg.columns) for row in read_rows(path))
        found, rows = format_of_rows(named, self.cfg.format, self.cfg.columns, self.key)
        if found is None:  # no row
            return
        summary.format = found
        for row in rows:
            number = summary.rows_read
            summary.rows_read += 1
            if not where.keeps(row):
                continue
            summary.rows_kept += 1
            try:
                turns = tuple(turns_of(row, found, self.key))
            except DataError as error:
                if not (self.drop_empty and error.is_empty_text):
                    raise
                unread = partial(Example, f"{self.name}:{number}", ())
                summary.empty.add(unread, str(error))
                continue
            summary.roles.update(turn.role for turn in turns)
            yield number, turns


class SourceReader:
    """Reads the examples of a source in the order of its files.

    Raises:
        ConfigError: a condition of `where` that is none.
    """

    def __init__(
        self, name: str, cfg: DataSourceConfig, located: Located, drop_empty: bool = False
    ) -> None:
        """`drop_empty` leaves out rows with a turn without text, which else are an error."""
        self.name, self.cfg, self.located = name, cfg, located
        self.files = FileReader(name, cfg, drop_empty)
        self._start()

    def _start(self) -> None:
        self.format = self.cfg.format  # `auto` until the first row is read
        self.where = compile_where(self.cfg.where, f"{self.files.key}.where")
        self._first: Path | None = None  # the first file that has rows
        self.roles: set[str] = set()
        self.rows_read = 0
        self.rows_kept = 0  # by `where`
        self.empty = Dropped()

    def __iter__(self) -> Iterator[Example]:
        """All examples that `where` keeps.

        Raises:
            DataError: a file or a row that cannot be used, files of different formats, or a
                source without examples.
        """
        self._start()
        for path in self.located.files:
            summary = FileSummary()
            for number, turns in self.files.read(path, summary):
                self.take_format(summary.format, path)
                yield Example(f"{self.name}:{self.rows_read + number}", turns)
            self.join(summary, path)
        self.finish()

    def take_format(self, found: DataFormat | None, path: Path) -> None:
        """Take the format of a file that is not joined yet; None of one without rows.

        Raises:
            DataError: an earlier file has another one.
        """
        if found is None or (found is self.format and self._first is not None):
            return
        if self._first is not None:
            raise DataError(
                f"source {self.name}: {self._first} is {self.format.value} and {path} is "
                f"{found.value}; one source has one format"
            )
        self.format, self._first = found, path

    def join(self, summary: FileSummary, path: Path) -> None:
        """Add what is known of a file once it is read; the files come in their order.

        Raises:
            DataError: as take_format.
        """
        self.take_format(summary.format, path)
        self.empty.join(summary.empty.shifted(self.rows_read))
        self.rows_read += summary.rows_read
        self.rows_kept += summary.rows_kept
        self.roles |= summary.roles
        self.where.seen.join(summary.seen)

    def finish(self) -> None:
        """Raise DataError if no file had an example."""
        if not self.rows_kept:
            found = self.where.found()
            reason = f"no example that passes `where`: {found}" if found else "no example"
            raise DataError(f"source {self.name} ({self.located.described}) has {reason}")

    def described_format(self) -> str:
        """E.g. "messages, 3 roles"."""
        count = len(self.roles)
        return f"{self.format.value}, {count} role{'s' if count != 1 else ''}"
