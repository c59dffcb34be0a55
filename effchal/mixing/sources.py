"""The examples of one source, one after another: its rows, filtered, checked, and as turns."""

from collections.abc import Iterator
from pathlib import Path

from effchal.config import DataSourceConfig
from effchal.config.choices import DataFormat
from effchal.mixing.dropped import Dropped
from effchal.mixing.example import Example
from effchal.mixing.formats import format_of_rows, renamed, turns_of
from effchal.mixing.locate import Located, locate
from effchal.mixing.readers import DataError, read_rows
from effchal.mixing.where import compile_where


class SourceReader:
    """Reads the examples of a source in the order of its files.

    Raises:
        ConfigError: a condition of `where` that is none.
    """

    def __init__(
        self, name: str, cfg: DataSourceConfig, located: Located, drop_empty: bool = False
    ) -> None:
        """`drop_empty` leaves out rows with a turn without text, which else are an error."""
        self.name, self.cfg, self.located, self._drop_empty = name, cfg, located, drop_empty
        self.key = f"data_mix.sources.{name}"
        self.where = compile_where(cfg.where, f"{self.key}.where")
        self._start()

    def _start(self) -> None:
        self.format = self.cfg.format  # `auto` until the first row is read
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
        formats: dict[DataFormat, Path] = {}
        for path in self.located.files:
            named = (renamed(row, self.cfg.columns) for row in read_rows(path))
            found, rows = format_of_rows(named, self.cfg.format, self.cfg.columns, self.key)
            if found is None:  # no row
                continue
            formats.setdefault(found, path)
            if len(formats) > 1:
                (one, first), (other, then) = formats.items()
                raise DataError(
                    f"source {self.name}: {first} is {one.value} and {then} is {other.value}; "
                    "one source has one format"
                )
            self.format = found
            for row in rows:
                number = self.rows_read
                self.rows_read += 1
                if not self.where.keeps(row):
                    continue
                self.rows_kept += 1
                try:
                    turns = tuple(turns_of(row, found, self.key))
                except DataError as error:
                    if not (self._drop_empty and error.is_empty_text):
                        raise
                    self.empty.add_unread(f"{self.name}:{number}", str(error))
                    continue
                self.roles.update(turn.role for turn in turns)
                yield Example(f"{self.name}:{number}", turns)
        self._finish()

    def _finish(self) -> None:
        if not self.rows_kept:
            found = self.where.found()
            reason = f"no example that passes `where`: {found}" if found else "no example"
            raise DataError(f"source {self.name} ({self.located.described}) has {reason}")

    def described_format(self) -> str:
        """E.g. "messages, 3 roles"."""
        count = len(self.roles)
        return f"{self.format.value}, {count} role{'s' if count != 1 else ''}"


def load_source(name: str, cfg: DataSourceConfig) -> list[Example]:
    """All examples of one source in memory, which is for tests and small files.

    Raises:
        DataError: as locate and SourceReader.
    """
    return list(SourceReader(name, cfg, locate(name, cfg)))
