"""FSDP2 for the frozen base model: each process holds a share of its layers' weights.

What is trained is the same in all processes, as in data parallel, so checkpoints do not depend on
their number. Embedding, norms, head and the constants of 4-bit weights are held by each process as
well.
"""

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from effchal.config import Config, ConfigError
from effchal.config.choices import ActivationCheckpointing, Parallel
from effchal.kernels.decoder_layer import FusedLayer
from effchal.kernels.frozen_weight import FloatWeight, four_bit_state, is_four_bit
from effchal.model.route import route_of
from effchal.model.structure import backbone, layers_of
from effchal.training.layers import prepare_training
from effchal.training.lockstep import Lockstep, LockstepLayer
from effchal.training.ranks import Ranks


def is_sharded(cfg: Config) -> bool:
    return cfg.train.gpus > 1 and cfg.train.parallel is Parallel.fsdp


def check_sharding(cfg: Config) -> None:
    """Raises ConfigError for keys that need the whole base model in each process."""
    if not is_sharded(cfg):
        return
    needs = {
        "train.samples": (bool(cfg.train.samples), "answers need the whole model in one process"),
        "train.compile=true": (cfg.train.compile, "compiled layers were not tried under it"),
    }
    for key, (is_set, reason) in needs.items():
        if is_set:
            raise ConfigError(
                f"train.parallel=fsdp does not go with {key}: {reason}; leave one of them out"
            )


def require_equal_passes(model: Any) -> None:
    """Raises ConfigError for a model whose examples go through it one by one.

    Processes would then gather weights in different order.
    """
    if not route_of(model).packed:
        raise ConfigError(
            "train.parallel=fsdp does not go with this model, whose examples pass one by one; take "
            "train.parallel=data"
        )


def place_unsharded(model: Any, device: torch.device) -> None:
    """Move all but the weights of the layers to the device, before layers are fused there."""
    sharded = {id(weight) for layer in layers_of(model) for weight in large_weights(layer)}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in sharded:
                parameter.data = parameter.data.to(device)
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            setattr(module, name, buffer.to(device))
        if is_four_bit(module):
            four_bit_state(module).to(device)


def prepare_sharded(
    model: Any, ranks: Ranks, device: torch.device, keep: ActivationCheckpointing
) -> tuple[bool, Ranks]:
    """prepare_training, with each process given its share of every layer's frozen matrices.

    A layer is sharded as soon as it is fused, so that joined weights of one layer at a time lie in
    the host's memory.

    Returns:
        Whether the layers are fused, and `ranks` of a sharded model.
    """
    # No layer changes what the one before it returned.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (ranks.size,))
    lockstep = Lockstep()
    place_unsharded(model, device)
    fused = prepare_training(
        model, keep, device=device, then=lambda layer: shard_layer(layer, mesh, lockstep)
    )
    fully_shard(backbone(model), mesh=mesh, ignored_params=set(model.parameters()))
    return fused, replace(ranks, are_sharded=True, lockstep=lockstep if fused else None)


def shard_layer(layer: Any, mesh: DeviceMesh, lockstep: Lockstep) -> None:
    """Leave each process its share of a layer's frozen matrices.

    A fused layer reads joined weights, which lie outside the library's modules. They become
    parameters of the layer here, and the library's own are emptied.
    """
    fused = getattr(layer.forward, "__self__", None)
    if isinstance(fused, FusedLayer):
        joined = [each.weight for each in fused.linears if isinstance(each.weight, FloatWeight)]
        layer.joined_weights = nn.ModuleList(weight.own() for weight in joined)
        layer.forward = LockstepLayer(fused, lockstep).forward
    sharded = {id(weight) for weight in large_weights(layer)}
    others = {each for each in layer.parameters() if id(each) not in sharded}
    fully_shard(layer, mesh=mesh, ignored_params=others)


def large_weights(layer: nn.Module) -> list[nn.Parameter]:
    """The frozen matrices of a layer; an adapter's are trained."""
    return [each for each in layer.parameters() if not each.requires_grad and each.dim() > 1]
