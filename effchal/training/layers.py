"""Make a model with an adapter ready to train: fused layers where they are known, else the library's own."""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from effchal.config import ConfigError
from effchal.config.choices import ActivationCheckpointing
from effchal.kernels.attention import use_packed_attention
from effchal.kernels.llama_layer import FusedLayer, fits
from effchal.model.device import multiplies_bfloat16
from effchal.model.structure import backbone, causal_lm, layers_of


def prepare_training(
    model: nn.Module,
    keep: ActivationCheckpointing,
    compiled: bool = False,
    device: torch.device | None = None,
) -> bool:
    """Change how the layers of an adapted model compute, not what: dropout, DoRA, 4-bit weights and layers of
    another shape stay with the library, whose activations are recomputed where `keep` asks for it. bfloat16 weights
    on a CPU without arithmetic for them are widened where they are used, and states are float32.

    Args:
        device: where the model will compute, if not where it lies.

    Returns:
        Whether the layers are fused ones, not the library's.

    Raises:
        ConfigError: selective checkpointing of the library's layers where no MLP is found.
    """
    use_packed_attention(model, compiled)
    layers = layers_of(model)
    fused = not compiled and all(fits(layer) for layer in layers)
    if fused:
        for layer in layers[:-1]:
            layer.forward = FusedLayer(layer, keep).forward
        # The last layer's backward pass comes next but one: keeping its state costs room only while the loss is made.
        full = keep is ActivationCheckpointing.full
        layers[-1].forward = FusedLayer(
            layers[-1], ActivationCheckpointing.none if full else keep
        ).forward
        embeddings = backbone(model).get_input_embeddings()
        if not multiplies_bfloat16(device or embeddings.weight.device):
            embeddings.register_forward_hook(lambda module, args, states: states.float())
        return True
    if keep is ActivationCheckpointing.full:
        causal_lm(model).activation_checkpointing_enable()
    elif keep is ActivationCheckpointing.selective:
        for layer in layers:
            if not hasattr(layer, "mlp"):
                raise ConfigError(
                    f"train.activation_checkpointing=selective finds no MLP in {type(layer).__name__}"
                )
            layer.mlp.forward = functools.partial(
                checkpoint, layer.mlp.forward, use_reentrant=False
            )
    if compiled:
        for layer in layers:
            layer.compile(dynamic=True)
    return False
