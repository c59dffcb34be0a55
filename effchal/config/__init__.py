"""The configuration: a typed schema of everything under conf/, and the only way in and out of it."""

from effchal.config.decoding import DecodingConfig
from effchal.config.errors import ConfigError
from effchal.config.helm import HelmConfig
from effchal.config.schema import (
    BudgetConfig,
    Config,
    DataMixConfig,
    DataSourceConfig,
    EvaluateConfig,
    LoraConfig,
    ModelConfig,
    PlanConfig,
    PromptConfig,
    RulesConfig,
    ScenarioConfig,
    ServeConfig,
    SweepConfig,
    TrackConfig,
    TrainConfig,
    load_config,
    save_config,
    to_config,
    to_plain,
)

__all__ = [
    "BudgetConfig",
    "Config",
    "ConfigError",
    "DataMixConfig",
    "DataSourceConfig",
    "DecodingConfig",
    "EvaluateConfig",
    "HelmConfig",
    "LoraConfig",
    "ModelConfig",
    "PlanConfig",
    "PromptConfig",
    "RulesConfig",
    "ScenarioConfig",
    "ServeConfig",
    "SweepConfig",
    "TrackConfig",
    "TrainConfig",
    "load_config",
    "save_config",
    "to_config",
    "to_plain",
]
