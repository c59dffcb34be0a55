"""One source in the cache, and batches of its rows that a process reads for itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from effchal.config import DataSourceConfig
from effchal.mixing.encode import ROWS, turns_of
from effchal.mixing.example import Example
from effchal.mixing.locate import Located
from effchal.mixing.store import mapped_table

Ints = npt.NDArray[Any]
StoredRow = tuple[int, int, bytes, bytes, bytes]  # as SCHEMA has them
SCHEMA = pa.schema(
    {
        "number": pa.int64(),  # of the row in the source, from 0
        "questions": pa.int32(),
        "prompt_key": pa.binary(32),
        "text_key": pa.binary(16),
        "turns": pa.binary(),
    }
)


@dataclass
class StoredSource:
    """One source in the cache, after `where` and the rules for single rows."""

    name: str
    cfg: DataSourceConfig
    located: Located
    key: str  # of its content
    path: Path
    meta: dict[str, Any]  # rows_read, rows_kept, format, dropped by rule
    turns: pa.ChunkedArray  # (n,) mapped: read when they are asked for
    numbers: Ints  # (n,)
    questions: Ints  # (n,)
    prompt_keys: Ints  # (n,) bytes
    text_keys: Ints  # (n,) bytes

    @classmethod
    def of(
        cls, name: str, cfg: DataSourceConfig, located: Located, key: str, path: Path, meta: Any
    ) -> "StoredSource":
        """Read all columns but the turns."""
        *columns, turns = mapped_table(path).columns
        return cls(name, cfg, located, key, path, meta, turns, *map(_values, columns))

    def __len__(self) -> int:
        return len(self.numbers)

    def id_of(self, index: int) -> str:
        return f"{self.name}:{self.numbers[index]}"

    def example(self, index: int) -> Example:
        return Example(self.id_of(index), turns_of(self.turns[index].as_py()))

    def batches(self, indices: Ints, size: int) -> Iterator["RowBatch"]:
        """Some rows, in rising order; the last batch may be smaller."""
        for start in range(0, len(indices), size):
            yield RowBatch.of(self.path, indices[start : start + size])


@dataclass(frozen=True)
class RowBatch:
    """Turns of some rows, in rising order, as the cache keeps them. Its pickle is small."""

    path: Path
    first: int
    used: bytes  # a bit for each row from the first one to the last one
    count: int

    @classmethod
    def of(cls, path: Path, indices: Ints) -> "RowBatch":
        first = int(indices[0])
        used = np.zeros(int(indices[-1]) - first + 1, bool)
        used[indices - first] = True
        return cls(path, first, np.packbits(used).tobytes(), len(indices))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[bytes]:
        status = self.path.stat()
        reader = _opened(self.path, (status.st_ino, status.st_mtime_ns, status.st_size))
        used = np.unpackbits(np.frombuffer(self.used, np.uint8))
        number, turns = -1, pa.array([])
        for index in (np.flatnonzero(used) + self.first).tolist():
            wanted, place = divmod(index, ROWS)
            if wanted != number:
                number, turns = wanted, reader.get_batch(wanted).column("turns")
            yield turns[place].as_py()


@lru_cache(maxsize=2)  # opening reads where each batch of the file stands
def _opened(path: Path, version: tuple[int, int, int]) -> pa.ipc.RecordBatchFileReader:
    """`version` changes with the file. Not mapped, for it would count as memory."""
    return pa.ipc.open_file(pa.OSFile(str(path)))


def record_batch(rows: list[StoredRow]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, SCHEMA.field(i).type) for i, c in enumerate(columns)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _values(column: pa.ChunkedArray) -> Ints:
    if not pa.types.is_fixed_size_binary(column.type):
        return column.to_numpy()
    size = column.type.byte_width
    joined = column.combine_chunks()
    return np.frombuffer(joined.buffers()[1], f"V{size}", len(joined))
