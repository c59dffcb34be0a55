"""The schema of what a run starts from: model, prompt templates and data_mix."""

from dataclasses import dataclass, field
from os.path import expanduser

from omegaconf import MISSING

from effchal.config.choices import Attention, DataFormat, Dtype, Origin, Quantization
from effchal.config.errors import SHARE_BELOW_1, Bound, require_keys

WEIGHT = Bound("above 0 and at most 1000", lambda weight: 0 < weight <= 1000)


@dataclass
class ModelConfig:
    """The base model and how its weights are loaded."""

    # Hugging Face repo id, local folder, or builtin:tiny (random weights, for tests).
    name: str = MISSING
    # Commit hash. A repo id needs one, or the run is not reproducible.
    revision: str | None = None
    # Type of the frozen weights and of the arithmetic. Adapters are always float32. A CPU without
    # bfloat16 arithmetic trains bfloat16 weights in float32, and decodes them many times slower.
    dtype: Dtype = Dtype.auto
    # Load the weights in 4 bits (QLoRA). null = plain weights.
    quantization: Quantization | None = None
    # For nf4: quantise the quantisation constants too.
    double_quant: bool = True
    # Which implementation computes attention.
    attention: Attention = Attention.auto
    # [tokens] A longer training example is cut.
    max_seq_len: int = 2048

    def __post_init__(self) -> None:
        self.name = expanduser(self.name)
        require_keys(self, "model", Bound("at least 8", lambda n: n >= 8), "max_seq_len")


@dataclass
class PromptConfig:
    """How a conversation becomes text, in training and in serving alike.

    `{content}` stands for the turn's text. An answer always ends with the
    tokenizer's end-of-sequence token, which no template has to spell.
    """

    # Template of a system turn.
    system: str = "{content}\n\n"
    # Template of a user turn.
    user: str = "{content}"
    # Template of an answer.
    assistant: str = "{content}"
    # Text between an answer's end-of-sequence token and the next turn.
    after_answer: str = "\n\n"

    def __post_init__(self) -> None:
        one = Bound("a template with one {content}", lambda text: text.count("{content}") == 1)
        require_keys(self, "prompt", one, "system", "user", "assistant")


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


@dataclass
class DataMixConfig:
    """The training examples: sources by name, mixed by weight."""

    # By name. Any key of a new source adds it: data_mix.sources.mine.path=<file>.
    sources: dict[str, DataSourceConfig] = field(default_factory=dict)
    # Share of each source that is kept for validation, by distinct first prompt.
    validation_fraction: float = 0.05
    # Seed of the choice for validation and of the order of examples.
    seed: int = 0

    def __post_init__(self) -> None:
        require_keys(self, "data_mix", SHARE_BELOW_1, "validation_fraction")
        for name, source in self.sources.items():
            require_keys(source, f"data_mix.sources.{name}", WEIGHT, "weight")
