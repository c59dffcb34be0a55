"""The schema of one source of a data mix."""

from dataclasses import dataclass, field
from os.path import expanduser
from typing import Any

from omegaconf import MISSING

from effchal.config.choices import DataFormat, Origin


@dataclass
class DataSourceConfig:
    """One source of training examples."""

    # Data set id of the Hugging Face hub, a file, a folder of files or of `save_to_disk`, a pattern
    # ("data/*.jsonl"), or builtin:<file>. A file is .jsonl, .json, .csv or .tsv, also with .gz or
    # .zst behind, or .parquet or .arrow.
    path: str = MISSING
    # How a row spells a conversation. auto = by the fields of the first rows.
    format: DataFormat = DataFormat.auto
    # Columns of other names, by the field of the format: {prompt: question, completion: answer}.
    columns: dict[str, str] = field(default_factory=dict)
    # Commit of a data set of the hub. null = its newest one, which the run's config then names.
    revision: str | None = None
    # One file inside the hub repository. null = the table named by `split`.
    file: str | None = None
    # Which table of a data set of the hub that has several.
    subset: str | None = None
    # Which part of a data set: of the hub, of `save_to_disk`, or of a folder with files for each.
    split: str = "train"
    # Keep rows by column: a value, a list of values, or conditions of {min, max, min_chars,
    # max_chars, matches: "<regular expression>", not: <any of these>}.
    where: dict[str, Any] = field(default_factory=dict)
    # Keep this many of the rows that `where` keeps, drawn by data_mix.seed. null = all.
    max_rows: int | None = None
    # Copies of this source in one epoch of the mix. 0.5 = every other example.
    weight: float = 1.0
    # Page of the source, for the run's report.
    homepage: str | None = None
    # The source's licence; `effchal check` reads it.
    license: str = "unknown"
    # Who wrote the examples; `effchal check` reads it.
    origin: Origin = Origin.unknown
    # [examples] Left after `where`. With `tokens`, lets a plan do without the data.
    examples: int | None = None
    # [tokens] Of all examples, approximately.
    tokens: int | None = None
    # For origin=llm: the licence by which that model's output may be trained on.
    llm_license: str | None = None

    def __post_init__(self) -> None:
        self.path = expanduser(self.path)
