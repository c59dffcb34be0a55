"""The configuration: a typed schema of everything under conf/, and how to read and write it."""

from effchal.config.conformance import ConformanceConfig
from effchal.config.data_mix import CleanConfig, DataMixConfig, DecontaminateConfig
from effchal.config.data_source import DataSourceConfig
from effchal.config.decoding import DecodingConfig
from effchal.config.errors import ConfigError
from effchal.config.export import ExportConfig
from effchal.config.inference import EvaluateConfig, HelmConfig, ScenarioConfig, ServeConfig
from effchal.config.inputs import ModelConfig, PromptConfig
from effchal.config.io import load_config, save_config, to_config, to_plain
from effchal.config.lm_eval import LmEvalConfig
from effchal.config.schema import Config
from effchal.config.sweep import SweepConfig
from effchal.config.training import (
    BudgetConfig,
    LoraConfig,
    PlanConfig,
    RulesConfig,
    TrackConfig,
    TrainConfig,
)

__all__ = [
    "BudgetConfig",
    "CleanConfig",
    "Config",
    "ConfigError",
    "ConformanceConfig",
    "DataMixConfig",
    "DataSourceConfig",
    "DecodingConfig",
    "DecontaminateConfig",
    "EvaluateConfig",
    "ExportConfig",
    "HelmConfig",
    "LmEvalConfig",
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
