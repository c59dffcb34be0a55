"""The schema of a data mix."""

from dataclasses import dataclass, field

from effchal.config.data_source import DataSourceConfig
from effchal.config.errors import AT_LEAST_1, SHARE_BELOW_1, Bound, require_keys

WEIGHT = Bound("above 0 and at most 1000", lambda weight: 0 < weight <= 1000)


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
            require_keys(source, f"data_mix.sources.{name}", AT_LEAST_1, "max_rows")
