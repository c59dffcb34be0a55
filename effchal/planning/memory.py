"""Memory of a run by phase and by part: the real training step on fake tensors, counted."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from effchal.config import Config
from effchal.config.choices import ActivationCheckpointing, Optimizer
from effchal.kernels import loss
from effchal.mixing.packing import MicroBatch
from effchal.model.device import pick_dtype
from effchal.model.structure import backbone, causal_lm, head
from effchal.planning.allocated import AllocatedBytes
from effchal.planning.meta_model import build_meta_model, shape_config, to_fake
from effchal.training.layers import prepare_training
from effchal.training.step import target_loss

PAGED = (Optimizer.paged_adamw, Optimizer.paged_adamw8bit)
FRAGMENTS = 0.05  # of the peak, on a GPU
HEAP, HOLES = 80 * 2**20, 1.0  # bytes, and times what a layer makes, on a CPU
UNPACKED = 0.85  # times 4-bit weights as they are when unpacked: what loading and unpacking them leaves in the heap
DEPTHS = (2, 4)  # layers
SMALLEST_8BIT, SMALLEST_PAGED = (
    4096,
    100_000,
)  # elements; bitsandbytes leaves smaller tensors as they are
# Share of the forward pass that is computed again; gate and up are some half of a layer's weights, and fused layers do
# not make down's product again.
AGAIN = {
    ActivationCheckpointing.none: 0.0,
    ActivationCheckpointing.selective: 0.5,
    ActivationCheckpointing.full: 1.0,
}
STATE_BLOCK = 256  # of an 8-bit state, one float32 constant each


@dataclass(frozen=True)
class Load:
    """What one micro-batch of a run brings at most."""

    tokens: int
    targets: int
    longest: int  # tokens of its longest example
    several: bool = True  # a step has more than one


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of a token."""

    forward: float
    training: float  # forward, backward, and forward again where activations are recomputed


@dataclass(frozen=True)
class Memory:
    """Bytes; `parts` are those at the peak of a training step."""

    parts: dict[str, int]
    phases: dict[str, int]
    paged: int  # of the optimizer, which may leave the GPU for the host's memory
    trainable: int  # parameters
    made: int  # by one layer in a step, gone again or not
    unpacked: int  # the 4-bit weights, if they were not
    cost: Cost

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def plan_memory(cfg: Config, device: torch.device, load: Load, validation: Load | None) -> Memory:
    """Memory that a run takes on `device`, from its config.json alone.

    Layers of a model are alike, so a deep one is counted at two depths and drawn out.

    Raises:
        ModelError: no config.json; RuntimeError and others: an architecture whose code cannot run on fake tensors.
    """
    layers = shape_config(cfg.model).get_text_config().num_hidden_layers
    if layers <= DEPTHS[1]:
        counted = _count(cfg, device, load, validation, None)
        return combine(cfg, load, counted | {"made": counted["made"] // layers})
    less, more = (_count(cfg, device, load, validation, depth) for depth in DEPTHS)
    beyond = (layers - DEPTHS[1]) / (DEPTHS[1] - DEPTHS[0])
    counted = {name: round(more[name] + beyond * (more[name] - less[name])) for name in more}
    made = (more["made"] - less["made"]) // (DEPTHS[1] - DEPTHS[0])
    return combine(cfg, load, counted | {"unpacked": more["unpacked"], "made": made})


def _count(
    cfg: Config, device: torch.device, load: Load, validation: Load | None, layers: int | None
) -> dict[str, int]:
    """Bytes that are alive at the marks of a run, each of them linear in the number of layers; and its operations."""
    model = build_meta_model(cfg, device, layers)
    with FakeTensorMode(), AllocatedBytes() as live, _chunks_of(device):
        to_fake(model)
        prepare_training(
            model.train(), cfg.train.activation_checkpointing, cfg.train.compile, device
        )
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        adapter = sum(parameter.nbytes for parameter in trainable)
        counted = {"weights": live.live - adapter, "adapter": adapter}
        counted["optimizer"], counted["paged"] = optimizer_bytes(
            cfg.train.optimizer, trainable, device
        )
        counted |= _training_step(model, live, load)
        counted["validation"] = _validation(model, live, validation) if validation else 0
    counted["unpacked"] = largest_unpacked(cfg, device, model)
    itemsize = pick_dtype(cfg.model.dtype, device).itemsize
    packed = [module for module in model.modules() if type(module).__name__ == "FakeLinear4bit"]
    counted["four-bit"] = itemsize * sum(
        module.in_features * module.out_features for module in packed
    )
    counted["trainable"] = sum(parameter.numel() for parameter in trainable)
    return counted | operations(model, load)


def combine(cfg: Config, load: Load, counted: dict[str, int]) -> Memory:
    """Phases and parts from what was counted; the peak of a step is where most is alive."""
    c = counted
    peak = max(c["forward peak"], c["loss peak"], c["backward peak"])
    in_loss = peak == c["loss peak"]
    gradients = c["gradients"] if load.several or peak == c["backward peak"] else 0
    before = c["gradients"] if load.several else 0
    saved = c["saved"] - before
    logits = peak - c["saved"] if in_loss else 0
    rest = peak - gradients - saved - logits
    if rest < 0:  # the end of the backward pass: all gradients, activations gone
        saved, rest = saved + rest, 0
    kept = c["weights"] + c["adapter"] + c["optimizer"] - c["paged"]
    parts = {name: c[name] for name in ("weights", "adapter")} | {
        "optimizer": c["optimizer"] - c["paged"]
    }
    parts |= {
        "gradients": gradients,
        "saved activations": saved,
        "logits and loss": logits,
        "workspace": rest,
    }
    # Weights are read and quantised one by one: the last one is there in both forms.
    quantised = cfg.model.quantization is not None
    phases = {"load": c["weights"], "quantise": c["weights"] + c["unpacked"]} if quantised else {}
    phases |= {} if quantised else {"load": c["weights"] + c["unpacked"]}
    phases |= {
        "training step": kept + peak,
        "validation": kept + c["validation"],
        "save": kept,
        "package": kept,
    }
    again = AGAIN[cfg.train.activation_checkpointing] * c["forward flops"]
    training = 2 * c["forward flops"] + c["attention flops"] + again + 6.0 * c["trainable"]
    cost = Cost(c["forward flops"] + 2.0 * c["trainable"], training)
    return Memory(parts, phases, c["paged"], c["trainable"], c["made"], c["four-bit"], cost)


def operations(model: nn.Module, load: Load) -> dict[str, int]:
    """Floating-point operations of a token in the forward pass, adapter left out."""
    logits = head(model)
    frozen = 0.0
    for name, module in model.named_modules():
        if (
            hasattr(module, "in_features")
            and "lora_" not in name
            and not hasattr(module, "base_layer")
        ):
            share = load.targets / load.tokens if module is logits else 1.0
            frozen += share * module.in_features * module.out_features
    shape = causal_lm(model).config.get_text_config()
    attention = (
        2 * shape.num_hidden_layers * shape.hidden_size * load.longest
    )  # half of the positions are seen
    return {"forward flops": round(2 * frozen + attention), "attention flops": attention}


def _training_step(model: nn.Module, live: AllocatedBytes, load: Load) -> dict[str, int]:
    """Bytes beyond weights, adapter and optimizer: the peaks of a step, and what is saved when its loss begins."""
    before = live.live
    marks: dict[str, int] = {}

    def after_backbone(*_: object) -> None:
        marks["forward peak"], marks["saved"] = live.peak - before, live.live - before
        live.start_peak()

    hook = backbone(model).register_forward_hook(after_backbone)
    if load.several:  # of the second micro-batch, the gradients of the first are there
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    made = live.made
    live.start_peak()
    loss_sum = target_loss(model, _micro_batch(load))
    marks["loss peak"] = live.peak - before
    live.start_peak()
    (loss_sum / load.targets).backward()
    del loss_sum
    hook.remove()
    marks["made"] = live.made - made
    return marks | {"backward peak": live.peak - before, "gradients": live.live - before}


def _validation(model: nn.Module, live: AllocatedBytes, load: Load) -> int:
    before = live.live
    live.start_peak()
    model.eval()
    with torch.no_grad():
        target_loss(model, _micro_batch(load))
    model.train()
    return live.peak - before


def _micro_batch(load: Load) -> MicroBatch:
    lengths = [load.longest] * (load.tokens // load.longest)
    if load.tokens % load.longest:
        lengths.append(load.tokens % load.longest)
    row, targets = (
        torch.empty(1, load.tokens, dtype=torch.int64),
        torch.empty(load.targets, dtype=torch.int64),
    )
    return MicroBatch(row, row.clone(), targets, targets.clone(), tuple(lengths), [])


@contextlib.contextmanager
def _chunks_of(device: torch.device) -> Iterator[None]:
    """Chunks of the loss as large as they are on `device`, for tensors that say they lie on a CPU."""
    own = loss.CHUNK_ELEMENTS["cpu"]
    loss.CHUNK_ELEMENTS["cpu"] = loss.CHUNK_ELEMENTS[device.type]
    try:
        yield
    finally:
        loss.CHUNK_ELEMENTS["cpu"] = own


def largest_unpacked(cfg: Config, device: torch.device, model: nn.Module) -> int:
    """The largest tensor in the file's dtype: while weights are loaded or packed, one lies beside what it becomes."""
    largest = max(
        (m.in_features * m.out_features for m in model.modules() if hasattr(m, "in_features")),
        default=0,
    )
    return largest * pick_dtype(cfg.model.dtype, device).itemsize


def allocator_bytes(memory: Memory, device: torch.device) -> int:
    """What the allocator holds beyond the tensors that are alive.

    On a GPU a guess, not measured; on a CPU, glibc's heap, whose holes grow with what a layer makes and drops: see
    experiments/planner.
    """
    if device.type == "cuda":
        return round(FRAGMENTS * memory.peak)
    return round(HEAP + HOLES * memory.made + UNPACKED * memory.unpacked)


def optimizer_bytes(
    kind: Optimizer, trainable: list[nn.Parameter], device: torch.device
) -> tuple[int, int]:
    """Of the optimizer's state after its first step; and how much of that is paged."""
    total = paged = 0
    moments = 1 if kind is Optimizer.lion8bit else 2
    eight_bit = kind in (Optimizer.adamw8bit, Optimizer.paged_adamw8bit, Optimizer.lion8bit)
    for parameter in trainable:
        size, count = 4 * moments * parameter.numel(), parameter.numel()
        if eight_bit and count >= SMALLEST_8BIT:
            size = moments * (count + 4 * -(-count // STATE_BLOCK))
        total += size
        if kind in PAGED and device.type == "cuda" and count >= SMALLEST_PAGED:
            paged += size
    return total, paged
