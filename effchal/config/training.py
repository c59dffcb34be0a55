"""The schema of a training run: lora, budget, train, plan, show, rules and track."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from effchal.config.choices import (
    ActivationCheckpointing,
    BundleOf,
    LossOn,
    Optimizer,
    Parallel,
    PlanDevice,
    Schedule,
    WandbMode,
)
from effchal.config.errors import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    FINITE_ABOVE_0,
    SHARE,
    SHARE_BELOW_1,
    Bound,
    require,
    require_keys,
)

ALL_LINEAR = "all-linear"  # peft's word
Targets = Any  # ALL_LINEAR or a list of str; OmegaConf knows no union of these


@dataclass
class LoraConfig:
    """The adapter, in peft's names. `lora=none` (null) is the plain base model."""

    # Rank.
    r: int = 16
    # Scale: the update is multiplied by alpha / r, or by alpha / sqrt(r) with use_rslora.
    alpha: int = 16
    # Dropout before the adapter.
    dropout: float = 0.0
    # Names of the linear layers that get an adapter; all-linear finds those of any model, but
    # neither head nor routers.
    target_modules: Targets = field(default_factory=lambda: ["q_proj", "v_proj"])
    # Rank-stabilised scaling, arXiv:2312.03732.
    use_rslora: bool = False
    # Weight-decomposed adapters, arXiv:2402.09353.
    use_dora: bool = False

    def __post_init__(self) -> None:
        rank = Bound("at least 1; for no adapter use lora=none", AT_LEAST_1.holds)
        require_keys(self, "lora", rank, "r")
        require_keys(self, "lora", AT_LEAST_1, "alpha")
        require_keys(self, "lora", SHARE_BELOW_1, "dropout")
        targets = self.target_modules
        names = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
        require(
            targets == ALL_LINEAR or (names and bool(targets)),
            "lora.target_modules",
            targets,
            "all-linear or a list of names, not empty",
        )


@dataclass
class BudgetConfig:
    """What a run may take: wall-clock time and GPU memory."""

    # [h] Wall clock, over all restarts of the run.
    hours: float = 24.0
    # [min] Kept for the last checkpoint and the bundle. null = measured in the run, times a factor.
    reserve_minutes: float | None = None
    # Refuse a run that cannot fit, before it starts.
    enforce: bool = True
    # Largest share of the time spent that validations and checkpoints between steps may take.
    # Beyond it they wait.
    periodic_work_share: float = 0.1
    # [GiB] GPU memory that training may take. null = the whole card.
    memory_gib: float | None = None
    # The card that a plan assumes on a machine without one, by its name: RTX 4090, A100 80GB, L4.
    gpu: str | None = None

    def __post_init__(self) -> None:
        require_keys(self, "budget", ABOVE_0, "hours", "memory_gib")
        below = Bound(
            f"below budget.hours ({self.hours} h)", lambda minutes: 0 <= minutes < self.hours * 60
        )
        require_keys(self, "budget", below, "reserve_minutes")
        require_keys(self, "budget", SHARE, "periodic_work_share")


@dataclass
class TrainConfig:
    """The training loop."""

    # Passes over the mix; may be a fraction.
    epochs: int | float = 3
    # [steps] Train for so many instead of train.epochs: fewer leave data out, more begin it again.
    # The learning rate schedule ends there too. null = as the epochs give.
    max_steps: int | None = None
    # [examples] What one optimizer step learns from, however the examples are packed.
    examples_per_step: int = 16
    # Rows of model.max_seq_len tokens in one forward pass. auto = as many as fit. Changes memory
    # and speed only.
    micro_batch_size: int | str = 1
    # GPUs of this machine that share each step; without any, processes on the CPU. Changes speed
    # only. torchrun sets it, for several machines.
    gpus: int = 1
    # What each of several GPUs holds of the base model.
    parallel: Parallel = Parallel.auto
    # Put several examples into one row; attention does not cross between them.
    packing: bool = True
    # Which turns are learned. In `messages`, weight: 0 leaves out one more.
    loss_on: LossOn = LossOn.answers
    # AdamW or Lion; 8-bit and paged variants save memory.
    optimizer: Optimizer = Optimizer.adamw
    # Peak learning rate.
    lr: float = 2e-4
    # Decoupled weight decay.
    weight_decay: float = 0.0
    # How the learning rate falls after warm-up.
    schedule: Schedule = Schedule.cosine
    # [steps] How long the learning rate rises.
    warmup_steps: int = 10
    # Share of lr that the last step has.
    min_lr_fraction: float = 0.1
    # Gradients with a larger norm are scaled down to it.
    max_grad_norm: float = 0.3
    # What the forward pass keeps for the backward pass: less memory, more time.
    activation_checkpointing: ActivationCheckpointing = ActivationCheckpointing.none
    # Run torch.compile on the library's own layers, in place of the fused ones.
    compile: bool = False
    # On a GPU, run each layer's element-wise work (norms, rotation, gate, dropout, unpacking of
    # NF4) in Triton kernels, one each. It needs Triton and a C compiler.
    compile_elementwise: bool = True
    # [steps] How often to validate. Validation also runs before the first step and after the last.
    validate_every: int = 50
    # [steps] How often to save a checkpoint.
    checkpoint_every: int = 50
    # How many of the newest checkpoints are kept. The best by validation loss is kept as well.
    keep_checkpoints: int = 2
    # Prompts that the model answers at each validation, to see how it changes. Their time counts
    # towards the budget.
    samples: list[str] = field(default_factory=list)
    # [tokens] Most that such an answer has.
    sample_tokens: int = 64
    # Which weights are packaged at the end.
    bundle: BundleOf = BundleOf.last
    # Seed of adapter weights and dropout.
    seed: int = 0

    def __post_init__(self) -> None:
        size = self.micro_batch_size
        fits = size == "auto" or (isinstance(size, int) and size >= 1)
        require(fits, "train.micro_batch_size", size, "at least 1, or auto")
        counts = ("gpus", "examples_per_step", "validate_every", "checkpoint_every")
        require_keys(self, "train", AT_LEAST_1, *counts, "keep_checkpoints", "sample_tokens")
        empty = next((text for text in self.samples if not text.strip()), None)
        require(empty is None, "train.samples", empty, "a list of prompts, none of them empty")
        steps = Bound("at least 1 or null", AT_LEAST_1.holds)
        require_keys(self, "train", steps, "max_steps")
        require_keys(self, "train", FINITE_ABOVE_0, "lr", "epochs")
        require_keys(self, "train", AT_LEAST_0, "weight_decay", "warmup_steps")
        require_keys(self, "train", SHARE, "min_lr_fraction")
        require_keys(self, "train", ABOVE_0, "max_grad_norm")


@dataclass
class PlanConfig:
    """What `effchal plan` does besides planning."""

    # The device that the plan is made for. The name of a card plans for all of it, whether it is
    # here or not, in place of the budget's card.
    device: PlanDevice = PlanDevice.auto
    # Also plan the other ways to keep base model and activations, and show the fastest that fits.
    compare: bool = False
    # Train for some micro-batches here and keep the measured time and memory, for this plan and
    # later ones.
    probe: bool = False
    # How many micro-batches the probe trains for.
    micro_batches: int = 20

    def __post_init__(self) -> None:
        require_keys(self, "plan", Bound("at least 2", lambda n: n >= 2), "micro_batches")


@dataclass
class ShowConfig:
    """Which examples `effchal data show` prints."""

    # How many examples, in the order of training.
    count: int = 3
    # Of this source only. null = of any.
    source: str | None = None
    # These examples and no others, as <source>:<row, from 0>, e.g. [lima:12].
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_keys(self, "show", AT_LEAST_1, "count")


@dataclass
class RulesConfig:
    """A contest's rules; `effchal check` checks a run against them."""

    # The contest.
    name: str = MISSING
    # Where its rules are published.
    source: str = MISSING
    # Patterns of approved hub ids, e.g. mistralai/Mistral-7B-v*.
    base_models: list[str] = field(default_factory=list)
    # Patterns of model names that mean "instruction-tuned", which the rules exclude.
    tuned_models: list[str] = field(default_factory=list)
    # Words of the GPU names that CUDA reports, such as RTX 4090. One of them, and one card only.
    gpus: list[str] = field(default_factory=list)
    # [h] Most time for training.
    hours: float = MISSING
    # Examples that an LLM wrote are allowed without that LLM's permission.
    llm_data: bool = False
    # Refuse to train where a rule is broken, instead of a warning.
    enforce: bool = False


@dataclass
class TrackConfig:
    """Where metrics go besides metrics.jsonl, which is always written."""

    # Weights & Biases: config, metrics, samples, results, bundle.
    wandb: WandbMode = WandbMode.off
    # Project name at Weights & Biases.
    project: str = "effchal"
    # TensorBoard's event files, in the run's folder `tensorboard`.
    tensorboard: bool = False
