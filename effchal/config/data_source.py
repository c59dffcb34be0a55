"""The schema of one source of a data mix."""

from dataclasses import dataclass, field
from os.path import expanduser

from omegaconf import MISSING

from effchal.config.choices import DataFormat, Origin


@dataclass
class DataSourceConfig:
    """One source of training examples."""

    # Hugging Face data set id, local .jsonl, .json, .csv, .tsv or .parquet file (all but the last
    # also packed: .gz), or builtin:<file>.
    path: str = MISSING
    # How a row spells a conversation. auto = by the fields of the first rows.
    format: DataFormat = DataFormat.auto
    # Columns of other names, by the field of the format: {prompt: question, completion: answer}.
    columns: dict[str, str] = field(default_factory=dict)
    # Commit hash. A data set id needs one.
    revision: str | None = None
    # One file inside the hub repository. null = the table named by `split`.
    file: str | None = None
    # Which table of the data set.
    split: str = "train"
    # Keep rows whose column has one of these values.
    where: dict[str, list[str]] = field(default_factory=dict)
    # Copies of this source in one epoch of the mix. 0.5 = every other example.
    weight: float = 1.0
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
