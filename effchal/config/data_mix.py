"""The schema of a data mix."""

from dataclasses import dataclass, field
from os.path import expanduser

from effchal.config.choices import DataEngine, OnFault, TooLong, WeighBy
from effchal.config.data_source import DataSourceConfig
from effchal.config.errors import AT_LEAST_1, SHARE_BELOW_1, Bound, require, require_keys

ABOVE_0_TO_1 = Bound("above 0 and at most 1", lambda value: 0 < value <= 1)
WEIGHT = Bound("above 0 and at most 1000", lambda weight: 0 < weight <= 1000)


@dataclass
class CleanConfig:
    """Which faults of rows are looked for, and what becomes of the rows that have one."""

    # Rows where a question or an answer has no text: refuse or drop.
    empty_answers: OnFault = OnFault.refuse
    # Rows where an answer says the same words over and over.
    loops: OnFault = OnFault.drop
    # All but the first of the rows with the same turns, over all sources. Case, white space and
    # ways to spell one character do not count.
    duplicates: OnFault = OnFault.drop
    # Rows that share most of their phrases, over all sources. The one with the longest answers
    # stays.
    near_duplicates: OnFault = OnFault.keep
    # Share of common phrases, of all phrases of both rows, that makes two rows near-duplicates.
    near_threshold: float = 0.8
    # What becomes of an example of more than model.max_seq_len tokens.
    too_long: TooLong = TooLong.cut

    def __post_init__(self) -> None:
        require_keys(self, "data_mix.clean", ABOVE_0_TO_1, "near_threshold")
        action = self.empty_answers
        fits = action in (OnFault.refuse, OnFault.drop)
        require(fits, "data_mix.clean.empty_answers", action.value, "refuse or drop")


@dataclass
class DecontaminateConfig:
    """Which rows hold questions that the model will be evaluated with."""

    # What becomes of a row with words of an evaluation.
    action: OnFault = OnFault.report
    # Files of your own to look for, beside the evaluations that this program knows: each text in
    # their rows counts.
    files: list[str] = field(default_factory=list)
    # [words] So many in the same order are a match.
    words: int = 13
    # [words] A question shorter than `words` matches as a whole if it has so many. One of at least
    # five matches as a sentence of its own.
    short_words: int = 8

    def __post_init__(self) -> None:
        self.files = [expanduser(file) for file in self.files]
        require_keys(self, "data_mix.decontaminate", AT_LEAST_1, "words", "short_words")
        require(
            self.short_words <= self.words,
            "data_mix.decontaminate.short_words",
            self.short_words,
            f"at most data_mix.decontaminate.words={self.words}",
        )


@dataclass
class DataMixConfig:
    """The training examples: sources by name, mixed by weight."""

    # By name. Any key of a new source adds it: data_mix.sources.mine.path=<file>.
    sources: dict[str, DataSourceConfig] = field(default_factory=dict)
    clean: CleanConfig = field(default_factory=CleanConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    # What the weights of the sources count.
    by: WeighBy = WeighBy.copies
    # Share of each source that is kept for validation, by distinct first prompt.
    validation_fraction: float = 0.05
    # [prompts] At most so many of each source are kept for validation.
    validation_max: int = 1000
    # Seed of the choice for validation and of the order of examples.
    seed: int = 0
    # Where large sources are read, compared and encoded. The mix and its digest are the same.
    engine: DataEngine = DataEngine.local

    def __post_init__(self) -> None:
        require_keys(self, "data_mix", SHARE_BELOW_1, "validation_fraction")
        require_keys(self, "data_mix", AT_LEAST_1, "validation_max")
        for name, source in self.sources.items():
            require_keys(source, f"data_mix.sources.{name}", WEIGHT, "weight")
            require_keys(source, f"data_mix.sources.{name}", AT_LEAST_1, "max_rows")
