"""The schema of every YAML file under conf/, and the only way in and out of it."""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from effchal.config.choices import (
    ActivationCheckpointing,
    Attention,
    BundleOf,
    DataFormat,
    Dtype,
    Optimizer,
    Origin,
    PlanDevice,
    Quantization,
    Schedule,
    WandbMode,
)
from effchal.config.decoding import DecodingConfig, require_layers
from effchal.config.errors import ConfigError, require
from effchal.config.helm import HelmConfig
from effchal.config.io import explain


@dataclass
class ModelConfig:
    name: str = (
        MISSING  # Hugging Face repo id, local folder, or builtin:tiny (random weights, for tests)
    )
    revision: str | None = (
        None  # commit hash; required for a repo id, or the run is not reproducible
    )
    dtype: Dtype = (
        Dtype.auto
    )  # of frozen weights, and of the arithmetic where the device has it; adapters are float32
    quantization: Quantization | None = None  # nf4 = QLoRA; null = LoRA on plain weights
    double_quant: bool = True  # nf4 only: quantise the quantisation constants too
    attention: Attention = Attention.auto
    max_seq_len: int = 2048  # tokens; a longer training example is cut

    def __post_init__(self) -> None:
        require(self.max_seq_len >= 8, "model.max_seq_len", self.max_seq_len, "at least 8")


@dataclass
class PromptConfig:
    """How a conversation becomes text, in training and in serving alike.

    `{content}` stands for the turn's text. An answer always ends with the
    tokenizer's end-of-sequence token, which no template has to spell.
    """

    system: str = "{content}\n\n"
    user: str = "{content}"
    assistant: str = "{content}"
    after_answer: str = "\n\n"  # between an answer's end-of-sequence token and the next turn

    def __post_init__(self) -> None:
        for key in ("system", "user", "assistant"):
            count = getattr(self, key).count("{content}")
            require(
                count == 1, f"prompt.{key}", getattr(self, key), "a template with one {content}"
            )


@dataclass
class DataSourceConfig:
    path: str = (
        MISSING  # Hugging Face data set id, local .jsonl/.json/.parquet file, or builtin:<file>
    )
    format: DataFormat = MISSING
    revision: str | None = None  # commit hash; required for a data set id
    file: str | None = None  # one file inside the hub repository; null = the table named by `split`
    split: str = "train"
    where: dict[str, list[str]] = field(
        default_factory=dict
    )  # keep rows whose column has one of these
    weight: float = 1.0  # copies of this source in one epoch of the mix; 0.5 = every other example
    license: str = "unknown"
    origin: Origin = Origin.unknown
    examples: int | None = (
        None  # after `where`; with `tokens` for a plan where the data is not at hand
    )
    tokens: int | None = None  # of all examples, about
    llm_license: str | None = (
        None  # origin=llm: the licence by which that model's output may be trained on
    )


@dataclass
class DataMixConfig:
    sources: dict[str, DataSourceConfig] = field(default_factory=dict)  # by name
    validation_fraction: float = 0.05  # of each source, by distinct first prompt, for validation
    seed: int = 0  # of the validation choice and of the order

    def __post_init__(self) -> None:
        in_range = 0 <= self.validation_fraction < 1
        require(in_range, "data_mix.validation_fraction", self.validation_fraction, "in [0, 1)")
        for name, source in self.sources.items():
            require(source.weight > 0, f"data_mix.sources.{name}.weight", source.weight, "above 0")


@dataclass
class LoraConfig:
    """peft's names. `lora=none` (null) is the plain base model."""

    r: int = 16
    alpha: int = 16
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self) -> None:
        require(self.r >= 1, "lora.r", self.r, "at least 1; for no adapter use lora=none")
        require(self.alpha >= 1, "lora.alpha", self.alpha, "at least 1")
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "in [0, 1)")
        require(bool(self.target_modules), "lora.target_modules", self.target_modules, "not empty")


@dataclass
class BudgetConfig:
    hours: float = 24.0  # wall clock, over all restarts of the run
    reserve_minutes: float | None = (
        None  # kept for checkpoint and bundle; null = measured in the run, with a factor
    )
    enforce: bool = True  # refuse a run that cannot fit, before it starts
    periodic_work_share: float = (
        0.1  # of the time spent: validations and checkpoints between steps wait beyond it
    )
    memory_gib: float | None = None  # GPU memory the process may take; null = the whole card
    gpu: str | None = None  # the card that a plan assumes where the machine has none

    def __post_init__(self) -> None:
        require(self.hours > 0, "budget.hours", self.hours, "above 0")
        fits = self.reserve_minutes is None or 0 <= self.reserve_minutes < self.hours * 60
        require(
            fits,
            "budget.reserve_minutes",
            self.reserve_minutes,
            f"below budget.hours ({self.hours} h)",
        )
        require(
            0 <= self.periodic_work_share <= 1,
            "budget.periodic_work_share",
            self.periodic_work_share,
            "in [0, 1]",
        )


@dataclass
class TrainConfig:
    epochs: int = 3
    max_steps: int | None = None  # stop there, and let the schedule end there
    examples_per_step: int = 16  # packing and micro-batches never change what a step learns from
    micro_batch_size: int | str = (
        1  # rows of model.max_seq_len tokens in one forward pass; auto = the most that fit
    )
    packing: bool = True  # several examples in one row, attention isolated
    loss_on_prompt: bool = False  # true: prompt tokens are targets too
    optimizer: Optimizer = Optimizer.adamw
    lr: float = 2e-4
    weight_decay: float = 0.0
    schedule: Schedule = Schedule.cosine
    warmup_steps: int = 10
    min_lr_fraction: float = 0.1  # of lr, reached at the last step
    max_grad_norm: float = 0.3
    activation_checkpointing: ActivationCheckpointing = ActivationCheckpointing.none
    compile: bool = False  # torch.compile of the library's own layers, in place of the fused ones
    validate_every: int = 50  # steps; validation also runs before the first and after the last
    checkpoint_every: int = 50  # steps
    keep_checkpoints: int = 2  # the newest; and the best by validation loss beside them
    bundle: BundleOf = BundleOf.last  # the weights that are packaged at the end
    seed: int = 0

    def __post_init__(self) -> None:
        size = self.micro_batch_size
        fits = size == "auto" or (isinstance(size, int) and size >= 1)
        require(fits, "train.micro_batch_size", size, "at least 1, or auto")
        for key in (
            "epochs",
            "examples_per_step",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            require(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "at least 1")
        require(
            self.max_steps is None or self.max_steps >= 1,
            "train.max_steps",
            self.max_steps,
            "at least 1 or null",
        )
        require(0 < self.lr < math.inf, "train.lr", self.lr, "above 0 and finite")
        require(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "at least 0")
        require(
            0 <= self.min_lr_fraction <= 1,
            "train.min_lr_fraction",
            self.min_lr_fraction,
            "in [0, 1]",
        )
        require(self.warmup_steps >= 0, "train.warmup_steps", self.warmup_steps, "at least 0")
        require(self.max_grad_norm > 0, "train.max_grad_norm", self.max_grad_norm, "above 0")


@dataclass
class PlanConfig:
    """What effchal.plan does beside planning."""

    device: PlanDevice = PlanDevice.auto
    probe: bool = False  # train for some micro-batches here, and keep what they took for this plan and later ones
    micro_batches: int = 20  # of the probe

    def __post_init__(self) -> None:
        require(self.micro_batches >= 2, "plan.micro_batches", self.micro_batches, "at least 2")


@dataclass
class ServeConfig:
    host: str = "127.0.0.1"
    port: int = 8080
    max_waiting: int = (
        64  # prompts queued, the running ones among them, before the server answers 503
    )
    max_rows: int = 16  # completions that decode together
    prefill_tokens: int = (
        256  # of a prompt beside a decode step; more: fewer passes, longer pauses for others
    )
    cache_gib: float = 4.0  # keys and values of all rows
    prefix_gib: float = (
        1.0  # keys and values of prompts' beginnings, kept for the next prompt; 0 = none
    )
    max_prompt_tokens: int = 4096
    max_new_tokens: int = 2048  # the most that a request may ask for
    deadline_s: float = (
        3000.0  # of a request, its wait in the queue included; HELM's client waits as long
    )
    drain_s: int = 600  # after SIGTERM: time to finish what runs
    allow_decoding_override: bool = False  # a request may carry `decoding`, keys of decoding.*
    log_prompts: bool = False  # prompts and answers in the access log

    def __post_init__(self) -> None:
        require(0 < self.port < 65536, "serve.port", self.port, "in 1..65535")
        for key in (
            "max_waiting",
            "max_rows",
            "prefill_tokens",
            "max_prompt_tokens",
            "max_new_tokens",
        ):
            require(getattr(self, key) >= 1, f"serve.{key}", getattr(self, key), "at least 1")
        require(
            0 < self.cache_gib < math.inf, "serve.cache_gib", self.cache_gib, "above 0 and finite"
        )
        require(
            0 <= self.prefix_gib < math.inf,
            "serve.prefix_gib",
            self.prefix_gib,
            "at least 0 and finite",
        )
        require(self.deadline_s > 0, "serve.deadline_s", self.deadline_s, "above 0")


@dataclass
class ScenarioConfig:
    """What effchal.evaluate scores, and what effchal.helm has HELM run."""

    entries: list[str] = field(
        default_factory=list
    )  # HELM run entries, without their model; and some of our own
    max_instances: int = 10  # of each entry, drawn as HELM draws them
    path: str | None = (
        None  # folder of data in HELM's own layout; null = fetch them from their public sources
    )

    def __post_init__(self) -> None:
        require(self.max_instances >= 1, "scenario.max_instances", self.max_instances, "at least 1")
        twice = [entry for entry, count in Counter(self.entries).items() if count > 1]
        if twice:
            raise ConfigError(f"scenario.entries has {twice[0]} more than once")


@dataclass
class SweepConfig:
    """Several layer sets in one evaluation, from one forward pass a prompt."""

    premature_layers: list[Any] = field(
        default_factory=list
    )  # each low, high or a list; in place of decoding's
    controls: bool = True  # greedy, greedy with the same penalty, no penalty, longest answer; beside dola and sled

    def __post_init__(self) -> None:
        for i, layers in enumerate(self.premature_layers):
            require_layers(f"sweep.premature_layers[{i}]", layers)


@dataclass
class EvaluateConfig:
    rows_at_once: int = 8  # prompts that decode together; each may hold several decodings
    resamples: int = 10_000  # of the bootstrap
    confidence: float = 0.95  # of every interval

    def __post_init__(self) -> None:
        require(self.rows_at_once >= 1, "evaluate.rows_at_once", self.rows_at_once, "at least 1")
        require(self.resamples >= 100, "evaluate.resamples", self.resamples, "at least 100")
        require(0 < self.confidence < 1, "evaluate.confidence", self.confidence, "in (0, 1)")


@dataclass
class RulesConfig:
    """A contest's rules; effchal.check holds a run against them."""

    name: str = MISSING
    source: str = MISSING  # where they are published
    base_models: list[str] = field(
        default_factory=list
    )  # patterns of approved hub ids, e.g. mistralai/Mistral-7B-v*
    tuned_models: list[str] = field(
        default_factory=list
    )  # patterns of names that say "instruction-tuned"
    gpus: list[str] = field(
        default_factory=list
    )  # parts of the names that CUDA gives; one of them, one card
    hours: float = MISSING
    llm_data: bool = False  # examples that an LLM wrote are allowed without that LLM's permission
    enforce: bool = False  # refuse to train where a rule is broken, rather than warn


@dataclass
class TrackConfig:
    wandb: WandbMode = WandbMode.off  # metrics.jsonl is always written
    project: str = "effchal"


@dataclass
class Config:
    name: str = "dev"
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data_mix: DataMixConfig = field(default_factory=DataMixConfig)
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    helm: HelmConfig = field(default_factory=HelmConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    rules: RulesConfig | None = None
    resume_from: str | None = None  # train, evaluate, helm: continue the run in this folder
    bundle: str | None = (
        None  # serve, evaluate, helm: its folder; null = the base model of this config
    )
    base_model: str | None = None  # where the bundle's base model lies on this machine


ConfigStore.instance().store(name="schema", node=Config)


def to_config(tree: Any) -> Config:
    """OmegaConf tree -> Config. The only place where a DictConfig is seen.

    Raises:
        ConfigError: unknown key (the nearest known one is named), missing value, wrong type.
    """
    try:
        # Hydra's `+key=value` can add keys that the schema lacks; this merge refuses them.
        checked = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(tree))
        missing = OmegaConf.missing_keys(checked)
        if missing:
            raise ConfigError(f"no value for {', '.join(sorted(missing))}")
        return OmegaConf.to_object(checked)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, Config)) from error


def save_config(cfg: Config, path: Path) -> None:
    """Write it whole or not at all."""
    parts = path.with_name(f".{path.name}")
    OmegaConf.save(OmegaConf.structured(cfg), parts)
    parts.replace(path)


def to_plain(cfg: Config) -> dict[str, Any]:
    """Plain dicts, lists and numbers, for a record that is not YAML."""
    return OmegaConf.to_container(OmegaConf.structured(cfg), enum_to_str=True)


def load_config(path: Path) -> Config:
    """Read what save_config wrote."""
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist; is {path.parent} a run or bundle folder of effchal?"
        )
    return to_config(OmegaConf.load(path))
