"""Prepare an adapted model for training: fused layers where they apply, else the library's."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from effchal.config import ConfigError
from effchal.config.choices import ActivationCheckpointing
from effchal.kernels.attention import use_packed_attention
from effchal.kernels.decoder_layer import FusedLayer, trainable_parts
from effchal.kernels.layer_parts import LayerParts
from effchal.kernels.scratch import ScratchBuffers
from effchal.model.device import multiplies_bfloat16
from effchal.model.route import route_of
from effchal.model.structure import (
    attention_name,
    backbone,
    causal_lm,
    checkpoint_layers,
    forward_hooks,
    layers_of,
)


def prepare_training(
    model: Any,
    keep: ActivationCheckpointing,
    compiled: bool = False,
    device: torch.device | None = None,
    then: Callable[[nn.Module], None] = lambda layer: None,
) -> bool:
    """Change how the layers of a peft model compute, but not what.

    DoRA, and layers that are put together in another way, stay the library's. `keep` says
    which activations are recomputed. On a CPU without bfloat16 arithmetic, bfloat16
    weights are upcast at each use, and hidden states are float32.

    Args:
        device: where the model will compute, if not where it lies.
        then: called with each layer once it is prepared.

    Returns:
        Whether the layers are fused.

    Raises:
        ConfigError: selective checkpointing of library layers that have no MLP.
    """
    use_packed_attention(model, compiled)
    layers: Any = layers_of(model)
    parts = [] if compiled else fused_parts(model)
    if parts:
        fuse(model, parts, keep, device, then)
        return True
    if keep is ActivationCheckpointing.full:
        checkpoint_layers(model)
    elif keep is ActivationCheckpointing.selective:
        for layer in layers:
            if not hasattr(layer, "mlp"):
                raise ConfigError(
                    "train.activation_checkpointing=selective finds no MLP in "
                    f"{type(layer).__name__}"
                )
            layer.mlp.forward = functools.partial(
                checkpoint, layer.mlp.forward, use_reentrant=False
            )
    if compiled:
        for layer in layers:
            layer.compile(dynamic=True)
    for layer in layers:
        then(layer)
    return False


def fused_parts(model: Any) -> list[LayerParts]:
    """The parts of each layer; empty where some layer must stay the library's."""
    route = route_of(model)
    return trainable_parts(layers_of(model)) if route.fused and route.packed else []


def fuse(
    model: Any,
    parts: list[LayerParts],
    keep: ActivationCheckpointing,
    device: torch.device | None,
    then: Callable[[nn.Module], None],
) -> None:
    """Replace the forward pass of each layer by the fused one."""
    # The last layer's backward pass follows the loss at once. Keeping its activations costs
    # memory only while the loss is computed.
    full = keep is ActivationCheckpointing.full
    last = ActivationCheckpointing.none if full else keep
    keeps, scratch = [keep] * (len(parts) - 1) + [last], ScratchBuffers()
    for layer, of_layer, kept in zip(layers_of(model), parts, keeps, strict=True):
        layer.forward = FusedLayer(of_layer, kept, scratch).forward
        then(layer)
    inner: Any = backbone(model)
    embeddings = inner.get_input_embeddings()
    if not multiplies_bfloat16(device or embeddings.weight.device):
        embeddings.register_forward_hook(lambda module, args, states: states.float())


@contextlib.contextmanager
def as_loaded(model: Any) -> Iterator[None]:
    """Undo prepare_training for a while, so that the model can decode."""
    # The second is what nn.Module.compile sets: private, checked with torch 2.13.0.
    whole, changed = causal_lm(model), ("forward", "_compiled_call_impl")
    attention = attention_name(whole.config)
    layers: Any = layers_of(model)
    kept = [
        {name: vars(layer).pop(name) for name in changed if name in vars(layer)} for layer in layers
    ]
    hooks = forward_hooks(backbone(model).get_input_embeddings())
    hooks_kept = dict(hooks)
    hooks.clear()
    try:
        yield
    finally:
        hooks.update(hooks_kept)
        for layer, attributes in zip(layers, kept, strict=True):
            vars(layer).update(attributes)
        if attention_name(whole.config) != attention:
            whole.set_attn_implementation(attention)
