"""The root of the schema: every key that a YAML file under conf/ or an override may set.

The groups are defined by subject, in the other modules of this folder.
Comments above or behind a key are its documentation, a unit first in brackets:
`effchal.config.describe` reads them for --help and for docs/configuration.md.
"""

from dataclasses import dataclass, field
from os.path import expanduser
from typing import Any

from hydra.core.config_store import ConfigStore

from effchal.config.conformance import ConformanceConfig
from effchal.config.data_mix import DataMixConfig
from effchal.config.decoding import DecodingConfig
from effchal.config.export import ExportConfig
from effchal.config.inference import EvaluateConfig, HelmConfig, ScenarioConfig, ServeConfig
from effchal.config.inputs import ModelConfig, PromptConfig
from effchal.config.lm_eval import LmEvalConfig
from effchal.config.submission import ReproduceConfig, SubmitConfig
from effchal.config.sweep import SweepConfig
from effchal.config.training import (
    BudgetConfig,
    LoraConfig,
    PlanConfig,
    RulesConfig,
    ShowConfig,
    TrackConfig,
    TrainConfig,
)


@dataclass
class Config:
    """Keys of no group."""

    # Name of the run, part of its folder's name.
    name: str = "dev"
    # Training data in a word: what data_mix.sources.<name>.path takes, or a list of it, each with a
    # weight behind a colon where it is not 1: [a.jsonl:2, b.parquet:0.5]. It is the whole mix, or
    # is added to the one that is typed beside it (data_mix=lima). For effchal evaluate it is
    # questions of your own, or a list of them: scenario.data.
    data: Any = None
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data_mix: DataMixConfig = field(default_factory=DataMixConfig)
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    show: ShowConfig = field(default_factory=ShowConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    helm: HelmConfig = field(default_factory=HelmConfig)
    lm_eval: LmEvalConfig = field(default_factory=LmEvalConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    conformance: ConformanceConfig = field(default_factory=ConformanceConfig)
    submit: SubmitConfig = field(default_factory=SubmitConfig)
    reproduce: ReproduceConfig = field(default_factory=ReproduceConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    rules: RulesConfig | None = None
    # Folder of a run to go on with (train, evaluate, helm, lm_eval).
    resume_from: str | None = None
    # Folder of a bundle (serve, evaluate, helm, lm_eval, export, submit). null = the base model of
    # this config. base:<folder> = the base model of that bundle, with its prompt template;
    # base_plain:<folder> = the same with prompt=plain.
    bundle: str | None = None
    # Where the base model lies on this machine, if not where the config of the bundle or of the run
    # to go on with says.
    base_model: str | None = None

    def __post_init__(self) -> None:
        for key in ("resume_from", "bundle", "base_model"):
            value = getattr(self, key)
            setattr(self, key, value and expanduser(value))


@dataclass
class ComposedMix(DataMixConfig):
    """Sources without a type, so that the command line can add one; to_config checks them."""

    sources: dict[str, Any] = field(default_factory=dict)


@dataclass
class Composed(Config):
    """What Hydra composes."""

    data_mix: ComposedMix = field(default_factory=ComposedMix)


ConfigStore.instance().store(name="schema", node=Composed)
