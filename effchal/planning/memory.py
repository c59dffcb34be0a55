"""Memory of a run by phase and by part: the real training step on fake tensors, counted."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from effchal.config import Config
from effchal.kernels.elementwise import allow_compiling
from effchal.kernels.frozen_weight import is_four_bit
from effchal.mixing.packing import MicroBatch
from effchal.model.device import pick_dtype
from effchal.model.structure import backbone
from effchal.planning.allocated import AllocatedBytes
from effchal.planning.flops import RECOMPUTED, Cost, attention_flops, frozen_weights
from effchal.planning.meta_model import build_meta_model, shape_config, to_fake
from effchal.planning.optimizer import optimizer_bytes
from effchal.planning.pretended import pretended
from effchal.planning.sharded import held_weights, layer_weights
from effchal.planning.traffic import Traffic
from effchal.planning.workload import MicroBatchSize
from effchal.training.layers import prepare_training
from effchal.training.sharding import is_sharded
from effchal.training.step import target_loss

# Of the peak, on a GPU: what the allocator holds beyond tensors. It assumes segments that grow
# (PYTORCH_ALLOC_CONF=expandable_segments:True, which this package asks for). Then memory that
# joining q, k, v and gate, up frees is used again, and only rounding and unlucky sizes are left.
# Without them a simulation of Mistral-7B left 1.9 to 3.1 GB.
FRAGMENTS = 0.06
# On a CPU, see experiments/planner: bytes of glibc's heap; holes, times what a layer makes;
# what loading and unpacking 4-bit weights leaves, times their unpacked size.
HEAP, HOLES, UNPACKED = 80 * 2**20, 1.0, 0.85
ALIKE = {"full_attention", "sliding_attention", "chunked_attention"}  # kinds of layers, in bytes
DEPTHS = (2, 4)  # layers of the two models that a deep one is extrapolated from


class NotCountableError(Exception):
    """The code of an architecture does not run on fake tensors: it looks at its data."""


@dataclass(frozen=True)
class Memory:
    """Bytes; `parts` are those at the peak of a training step."""

    parts: dict[str, int]
    phases: dict[str, int]
    paged: int  # of the optimizer's state; may leave the GPU for the host's memory
    trainable: int  # parameters
    made: int  # allocated by one layer in a step, freed or not
    unpacked: int  # of the 4-bit weights, if they were unpacked
    cost: Cost

    @property
    def peak(self) -> int:
        return max(self.phases.values())


@dataclass(frozen=True)
class StepBytes:
    """Bytes of a training step beyond weights, adapter and optimizer."""

    forward_peak: int
    loss_peak: int
    backward_peak: int
    saved: int  # allocated when the loss begins
    gradients: int
    made: int  # allocated in the step, freed or not
    traffic: int  # read and written by element-wise operations
    forward_traffic: int  # of these until the loss is there
    launches: int  # operations


@dataclass(frozen=True)
class Counts(StepBytes):
    """Bytes and operations of a run, each linear in the model's number of layers."""

    weights: int
    layer_weights: int  # frozen matrices of the layers, a part of the weights
    mapped: int  # of the weights' file, while they are converted
    adapter: int
    optimizer: int
    paged: int  # of the optimizer
    validation: int
    largest_weight: int  # in the file's dtype
    four_bit: int  # the 4-bit weights, if they were unpacked
    trainable: int  # parameters
    forward_flops: int  # of a token, without the adapter
    attention_flops: int  # of a token, a part of the forward pass


def plan_memory(
    cfg: Config, device: torch.device, largest: MicroBatchSize, validation: MicroBatchSize | None
) -> Memory:
    """Memory that a run takes on `device`, by its config.json alone.

    Where the layers of a model are alike, a deep one is extrapolated from two depths.

    Raises:
        ModelError: no config.json.
        NotCountableError: an architecture whose code cannot run on fake tensors.
    """
    text = shape_config(cfg.model).get_text_config()
    layers = text.num_hidden_layers
    if layers <= DEPTHS[1] or not layers_are_alike(text):
        counts = count(cfg, device, largest, validation, None)
        return combine(cfg, largest, replace(counts, made=counts.made // layers))
    less, more = (vars(count(cfg, device, largest, validation, depth)) for depth in DEPTHS)
    beyond = (layers - DEPTHS[1]) / (DEPTHS[1] - DEPTHS[0])
    counts = Counts(**{key: round(more[key] + beyond * (more[key] - less[key])) for key in more})
    made = (more["made"] - less["made"]) // (DEPTHS[1] - DEPTHS[0])
    return combine(cfg, largest, replace(counts, largest_weight=more["largest_weight"], made=made))


def count(
    cfg: Config,
    device: torch.device,
    largest: MicroBatchSize,
    validation: MicroBatchSize | None,
    layers: int | None,
) -> Counts:
    """Run a training step and a validation of the first `layers` on fake tensors."""
    model = build_meta_model(cfg, device, layers)
    with pretended(device), AllocatedBytes() as allocated, Traffic() as traffic:
        to_fake(model)
        keep, compiled = cfg.train.activation_checkpointing, cfg.train.compile
        allow_compiling(cfg.train.compile_elementwise)
        prepare_training(model.train(), keep, compiled, device)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        adapter = sum(parameter.nbytes for parameter in trainable)
        weights = allocated.now - adapter
        optimizer, paged = optimizer_bytes(cfg.train.optimizer, trainable, device)
        try:
            step = training_step_bytes(model, allocated, traffic, largest)
            validating = validation_peak(model, allocated, validation) if validation else 0
        except Exception as error:  # of the architecture's own code
            raise NotCountableError from error
    linears = [module for module in model.modules() if hasattr(module, "in_features")]
    sizes = [module.in_features * module.out_features for module in linears]
    packed = [size for module, size in zip(linears, sizes, strict=True) if is_four_bit(module)]
    itemsize = pick_dtype(cfg.model.dtype, device).itemsize
    attention = attention_flops(model, largest)
    return Counts(
        **vars(step),
        mapped=mapped_bytes(cfg, device, weights),
        weights=weights,
        layer_weights=layer_weights(model),
        adapter=adapter,
        optimizer=optimizer,
        paged=paged,
        validation=validating,
        largest_weight=max(sizes, default=0) * itemsize,
        four_bit=sum(packed) * itemsize,
        trainable=sum(parameter.numel() for parameter in trainable),
        forward_flops=round(2 * frozen_weights(model, largest) + attention),
        attention_flops=attention,
    )


def layers_are_alike(text: Any) -> bool:
    """Whether the layers of a text config have weights and states of the same sizes."""
    kinds = set(getattr(text, "layer_types", None) or ())
    others = ("first_k_dense_replace", "mlp_only_layers", "num_kv_shared_layers")
    mixed = len(set(getattr(text, "mlp_layer_types", None) or ())) > 1
    return kinds <= ALIKE and not (mixed or any(getattr(text, name, None) for name in others))


def mapped_bytes(cfg: Config, device: torch.device, weights: int) -> int:
    """Of the weights' file, which on a CPU stays mapped until its weights are converted."""
    stored = shape_config(cfg.model).get_text_config().dtype or torch.float32
    dtype = pick_dtype(cfg.model.dtype, device)
    converts = device.type == "cpu" and cfg.model.quantization is None and stored is not dtype
    return weights * stored.itemsize // dtype.itemsize if converts else 0


def combine(cfg: Config, largest: MicroBatchSize, c: Counts) -> Memory:
    """Phases and parts from what was counted. A step's peak is where most is allocated."""
    peak = max(c.forward_peak, c.loss_peak, c.backward_peak)
    gradients = c.gradients if largest.several or peak == c.backward_peak else 0
    saved = c.saved - (c.gradients if largest.several else 0)
    logits = peak - c.saved if peak == c.loss_peak else 0
    workspace = peak - gradients - saved - logits
    if workspace < 0:  # the end of the backward pass: all gradients, activations freed
        saved, workspace = saved + workspace, 0
    weights = held_weights(cfg, c.weights, c.layer_weights)
    parts = {
        "weights": weights,
        "adapter": c.adapter,
        "optimizer": c.optimizer - c.paged,
        "gradients": gradients,
        "saved activations": saved,
        "logits and loss": logits,
        "workspace": workspace,
    }
    # Weights are read and quantised one by one; the last one exists in both forms.
    loading = weights + (0 if is_sharded(cfg) else max(c.largest_weight, c.mapped))
    quantised = cfg.model.quantization is not None
    phases = {"load": weights, "quantise": loading} if quantised else {"load": loading}
    kept = weights + c.adapter + c.optimizer - c.paged
    phases |= {
        "training step": kept + peak,
        "validation": kept + c.validation,
        "save": kept,
        "package": kept,
    }
    again = RECOMPUTED[cfg.train.activation_checkpointing] * c.forward_flops
    cost = Cost(
        forward=c.forward_flops + 2.0 * c.trainable,
        training=2 * c.forward_flops + c.attention_flops + again + 6.0 * c.trainable,
        forward_traffic=c.forward_traffic / largest.tokens,
        training_traffic=c.traffic / largest.tokens,
        launches=c.launches / largest.tokens,
    )
    return Memory(parts, phases, c.paged, c.trainable, c.made, c.four_bit, cost)


def training_step_bytes(
    model: Any, allocated: AllocatedBytes, traffic: Traffic, largest: MicroBatchSize
) -> StepBytes:
    before, made = allocated.now, allocated.made
    moved, launches = traffic.bytes, traffic.launches
    forward_peak = saved = 0

    def after_backbone(*_: object) -> None:
        nonlocal forward_peak, saved
        forward_peak, saved = allocated.peak - before, allocated.now - before
        allocated.start_peak()

    hook = backbone(model).register_forward_hook(after_backbone)
    if largest.several:  # the second micro-batch meets the gradients of the first
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        made = allocated.made
    allocated.start_peak()
    loss_sum = target_loss(model, micro_batch_of(largest))
    loss_peak, forward_traffic = allocated.peak - before, traffic.bytes - moved
    allocated.start_peak()
    (loss_sum / largest.targets).backward()
    del loss_sum
    hook.remove()
    return StepBytes(
        forward_peak=forward_peak,
        loss_peak=loss_peak,
        backward_peak=allocated.peak - before,
        saved=saved,
        gradients=allocated.now - before,
        made=allocated.made - made,
        traffic=traffic.bytes - moved,
        forward_traffic=forward_traffic,
        launches=traffic.launches - launches,
    )


def validation_peak(model: Any, allocated: AllocatedBytes, size: MicroBatchSize) -> int:
    """Peak bytes of a validation beyond what is there anyway."""
    before = allocated.now
    allocated.start_peak()
    model.eval()
    with torch.no_grad():
        target_loss(model, micro_batch_of(size))
    model.train()
    return allocated.peak - before


def micro_batch_of(size: MicroBatchSize) -> MicroBatch:
    """A micro-batch of this size, without data."""
    lengths = [size.longest] * (size.tokens // size.longest)
    if size.tokens % size.longest:
        lengths.append(size.tokens % size.longest)
    row = torch.empty(1, size.tokens, dtype=torch.int64)
    targets = torch.empty(size.targets, dtype=torch.int64)
    return MicroBatch(row, row.clone(), targets, targets.clone(), tuple(lengths), [])


def allocator_bytes(memory: Memory, device: torch.device) -> int:
    """What the allocator holds beyond allocated tensors.

    On a GPU it is a share: 1 to 6 % on an H100, see experiments/gpu. On a CPU it is glibc's
    heap, whose holes grow with what a layer allocates and frees: see experiments/planner.
    """
    if device.type == "cuda":
        return round(FRAGMENTS * memory.peak)
    return round(HEAP + HOLES * memory.made + UNPACKED * memory.unpacked)
