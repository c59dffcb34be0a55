"""What a training run computes with, and its state: built, or restored from a checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from effchal.admission.admit import TrainingAdmission
from effchal.config import Config, ConfigError, TrainConfig
from effchal.config.choices import Dtype
from effchal.decoding.layers import contrast_of
from effchal.kernels.elementwise import allow_compiling, missing_compiler
from effchal.mixing.encode import EncodedExample
from effchal.mixing.order import TrainingOrder
from effchal.mixing.packing import MicroBatch
from effchal.mixing.prepare import DIGEST, PreparedData
from effchal.mixing.shares import micro_batches_of_rank
from effchal.mixing.sources import DataError
from effchal.model.device import multiplies_bfloat16, pick_dtype
from effchal.model.load import add_adapter, base_model_fingerprint, load_base_model, model_shape
from effchal.model.route import require_layer_states
from effchal.model.tokenizer import load_tokenizer
from effchal.model.vocabulary import check_vocabulary, embedding_rows, first_unknown
from effchal.runs import checkpoints, device_name
from effchal.tracking.terminal import progress
from effchal.training.budget import WallClock
from effchal.training.checkpoint import load_checkpoint, trainable_parameters
from effchal.training.layers import prepare_training
from effchal.training.ranks import ALONE, Ranks
from effchal.training.sharding import is_sharded, prepare_sharded, require_equal_passes
from effchal.training.step import make_optimizer

log = logging.getLogger("effchal.train")


@dataclass
class RunState:
    """What the loop counts. A checkpoint holds all of it, and the clock's state."""

    step: int = 0
    tokens: int = 0
    target_tokens: int = 0
    train_loss: float | None = None  # of the last step
    validation_loss_before: float | None = None
    validation_loss: float | None = None  # the latest
    validation_step: int | None = None  # when it was measured
    best_loss: float | None = None  # lowest validation loss of a checkpoint, and its step
    best_step: int | None = None
    lr: float | None = None  # of the last step
    data_sha256: str = ""  # of all examples in their order
    base_model: str | None = None  # fingerprint of its files; None: a hub id, which has a revision
    made_with: str = ""  # library and device, which the last bits depend on
    first_step_s: float | None = None  # seconds spent when the first step began
    command: str = ""  # that began the run; of Python it is not known
    micro_batch_divisor: int = 1  # of their size; a power of two once memory did not suffice

    @property
    def is_best(self) -> bool:
        """Whether the present weights have the lowest validation loss and no checkpoint yet."""
        if self.validation_step != self.step or self.validation_loss is None:
            return False
        return self.best_loss is None or self.validation_loss < self.best_loss

    @property
    def final_loss(self) -> float | None:
        """Validation loss after training; None if it was not measured, or nothing was trained."""
        return self.validation_loss if self.validation_step == self.step > 0 else None

    def losses(self) -> str:
        """For the screen: the validation loss before training, and of the present weights."""
        before, after = (
            "not measured" if loss is None else f"{loss:.3f}"
            for loss in (self.validation_loss_before, self.final_loss)
        )
        return f"validation loss {before} before, {after} after"

    def keep_best(self) -> None:
        """Call once the present weights are saved as the best ones."""
        self.best_loss, self.best_step = self.validation_loss, self.step

    def snapshot(self, clock: WallClock) -> dict[str, Any]:
        return asdict(self) | clock.state()


@dataclass
class TrainingSetup:
    """What the steps of a run compute with."""

    device: torch.device
    tokenizer: Any
    model: Any  # a peft model of transformers
    optimizer: torch.optim.Optimizer
    order: TrainingOrder
    validation: list[MicroBatch]
    steps: int  # planned
    ranks: Ranks = ALONE

    def micro_batches_of(self, cfg: Config, step: int, divisor: int = 1) -> list[MicroBatch]:
        """This process's micro-batches of a step, their size divided by `divisor`."""
        return share_on(self.device, cfg, self.order.examples_of_step(step), self.ranks, divisor)


def share_on(
    device: torch.device,
    cfg: Config,
    examples: Sequence[EncodedExample],
    ranks: Ranks,
    divisor: int = 1,
) -> list[MicroBatch]:
    """This process's micro-batches of some examples, on its device."""
    own = micro_batches_of_rank(cfg, examples, ranks.rank, ranks.size, divisor)
    return [micro_batch.to(device) for micro_batch in own]


def check_decoding(cfg: Config) -> None:
    """Check the decoding that the bundle will carry, before a day is spent on training it.

    Raises:
        ConfigError: layers that the model lacks.
    """
    shape = model_shape(cfg.model)
    contrast_of(cfg.decoding, shape.num_layers, shape.tied)


def build(
    cfg: Config, data: PreparedData, device: torch.device, ranks: Ranks = ALONE
) -> TrainingSetup:
    """Model, adapter and optimizer for data that is already prepared.

    Args:
        ranks: the processes that share each step.

    Raises:
        ConfigError: no adapter to train, or targets that the model lacks.
    """
    if cfg.lora is None:
        raise ConfigError("lora=none leaves nothing to train")
    base = load_for_training(cfg, device)
    tokenizer = load_tokenizer(cfg.model)
    check_examples(tokenizer, embedding_rows(base), data)
    admission = TrainingAdmission(base, cfg.model.max_seq_len)
    if cfg.decoding.method.contrasts_layers:
        require_layer_states(base)  # of the bundle that training leaves
    model = add_adapter(base, cfg.lora, cfg.train.seed)
    fused, ranks = prepare_layers(cfg, model, device, ranks)
    with progress("checking that the model computes what it should"):
        admission.confirm(device)
    dtype = pick_dtype(cfg.model.dtype, device)
    if not fused and dtype is torch.bfloat16 and not multiplies_bfloat16(device):
        log.warning(
            "model.dtype=bfloat16: this CPU lacks the arithmetic, and is a hundred times slower; "
            "take model.dtype=float32, or fused layers (no DoRA, no train.compile)"
        )
    steps = data.order.steps
    if cfg.train.warmup_steps > steps / 5:
        warmup = cfg.train.warmup_steps
        log.warning("train.warmup_steps=%d is more than a fifth of the %d steps", warmup, steps)
    trainable = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    layers = "fused" if fused else "the library's"
    log.info("%s on %s | layers: %s", cfg.model.name, device, layers)
    log.info("%s adapter parameters | %d steps", f"{trainable:,}", steps)
    if cfg.train.max_steps is not None:
        epochs = data.order.examples / data.order.of_epoch
        log.info("train.max_steps=%d is %.3g epochs of the data", steps, epochs)
    validation = share_on(device, cfg, data.validation, ranks) if len(data.validation) else []
    optimizer = make_optimizer(model, cfg.train)
    return TrainingSetup(device, tokenizer, model, optimizer, data.order, validation, steps, ranks)


def load_for_training(cfg: Config, device: torch.device) -> torch.nn.Module:
    """The base model; in the host's memory where each GPU is to hold a share of it."""
    if not is_sharded(cfg):
        return load_base_model(cfg.model, device)
    dtype = Dtype(str(pick_dtype(cfg.model.dtype, device)).removeprefix("torch."))
    return load_base_model(replace(cfg.model, dtype=dtype), torch.device("cpu"))


def prepare_layers(
    cfg: Config, model: Any, device: torch.device, ranks: Ranks
) -> tuple[bool, Ranks]:
    """prepare_training, and the weights spread over the processes where they are to be."""
    keep = cfg.train.activation_checkpointing
    compile_where_possible(cfg.train, device)
    if not is_sharded(cfg):
        return prepare_training(model, keep, cfg.train.compile), ranks
    require_equal_passes(model)
    return prepare_sharded(model, ranks, device, keep)


def compile_where_possible(cfg: TrainConfig, device: torch.device) -> None:
    """Element-wise kernels for a GPU, or a word why there are none."""
    allow_compiling(cfg.compile_elementwise)
    missing = missing_compiler() if device.type == "cuda" and cfg.compile_elementwise else None
    if missing:
        log.warning(
            "element-wise work runs slower, uncompiled: %s is missing; install it, or say "
            "train.compile_elementwise=false",
            missing,
        )


def check_examples(tokenizer: Any, rows: int, data: PreparedData) -> None:
    """Raise DataError for a token that the model has no embedding of: it would end a GPU's work."""
    if check_vocabulary(tokenizer, rows):
        return
    for examples in (data.train, data.validation):
        for number in range(len(examples)):
            example = examples[number]
            unknown = first_unknown(example.ids, rows)
            if unknown is not None:
                token = tokenizer.convert_ids_to_tokens(unknown)
                raise DataError(
                    f"{example.id} has token {unknown} ({token!r}), beyond this model's {rows} "
                    "embeddings; take the row out, or a model whose embedding has that token"
                )


def restore(
    cfg: Config, setup: TrainingSetup, data_sha256: str, clock: WallClock, run_dir: Path
) -> tuple[RunState, float]:
    """Put the newest checkpoint into model, optimizer and clock; a fresh state if there is none.

    Returns:
        The state, and the seconds that the run had spent when it was saved.

    Raises:
        ConfigError: no checkpoint can be read, or they belong to other data or another model.
    """
    folder = run_dir / "checkpoint"
    resumed = bool(checkpoints(folder))
    saved = load_checkpoint(folder, setup.model, setup.optimizer)
    if saved is None and resumed:
        raise ConfigError(f"no checkpoint in {folder} can be read; start anew in another folder")
    here: dict[str, Any] = {
        "data_sha256": data_sha256,
        "base_model": base_model_fingerprint(cfg.model),
        "made_with": f"torch {torch.__version__} on {device_name(setup.device)}",
    }
    saved = saved or here
    if saved.get("base_model", "unknown") is None and here["base_model"] is not None:
        raise ConfigError(
            f"{run_dir} was trained on a model of the hub, whose files were not digested, so "
            f"{cfg.model.name} cannot be proved the same; leave base_model out"
        )
    costs, spent_s = saved.pop("costs", {}), saved.pop("spent_s", 0.0)
    state = RunState(**saved)
    check_same(cfg, state, here, run_dir)
    if state.made_with != here["made_with"]:
        log.warning(
            "trained so far by %s, now by %s: the last bits may differ",
            state.made_with,
            here["made_with"],
        )
    clock.costs = costs
    return state, spent_s


def check_same(cfg: Config, state: RunState, here: dict[str, Any], run_dir: Path) -> None:
    """Raise ConfigError if data or base model are not the ones that the run began with."""
    if not state.data_sha256.startswith(DIGEST):
        raise ConfigError(
            f"{run_dir} was begun by an earlier version, which digested its data in another way; "
            "go on with that version, or start anew"
        )
    if state.data_sha256 != here["data_sha256"]:
        raise DataError(
            f"the data mix is not the one that {run_dir} was trained on; bring its files back (of "
            "evaluations, too, where rows with their questions are dropped), or give "
            "data_mix.sources.<name>.path=<file>"
        )
    if state.base_model not in (None, here["base_model"]):
        raise ConfigError(
            f"model.name={cfg.model.name} holds another model (fingerprint {here['base_model']}) "
            f"than {run_dir} was trained on ({state.base_model}); bring its files back, or give "
            "base_model=<folder>"
        )


def check_alike(setup: TrainingSetup, state: RunState) -> None:
    """Raise DataError unless every process of the run has the same data, step and adapter."""
    adapter = sum(float(each.double().sum()) for each in trainable_parameters(setup.model).values())
    own = {
        "data": state.data_sha256,
        "base model": state.base_model,
        "step of its checkpoint": state.step,
        "adapter's weights": adapter,
    }
    found = setup.ranks.gather(own)
    for rank, other in enumerate(found):
        for what, value in other.items():
            if value != found[0][what]:
                raise DataError(
                    f"process {rank} has another {what} than process 0 ({value} and "
                    f"{found[0][what]}); all machines need the same data, base model and run folder"
                )
