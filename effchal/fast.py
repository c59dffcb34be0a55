"""Make a model with an adapter ready to train: fused layers where they are known, else the library's own."""

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from effchal.attention import use_packed_attention
from effchal.choices import ActivationCheckpointing
from effchal.config import ConfigError
from effchal.llama_layer import FusedLayer, fits
from effchal.parts import causal_lm, layers_of


def prepare_training(model: nn.Module, keep: ActivationCheckpointing, compiled: bool = False) -> bool:
    """Change how the layers of an adapted model compute, not what: dropout, DoRA, 4-bit weights and layers of
    another shape stay with the library, whose activations are recomputed where `keep` asks for it.

    Returns:
        Whether the layers are fused ones, not the library's.

    Raises:
        ConfigError: selective checkpointing of the library's layers where no MLP is found.
    """
    use_packed_attention(model, compiled)
    layers = layers_of(model)
    fused = not compiled and all(fits(layer) for layer in layers)
    if fused:
        for layer in layers:
            layer.forward = FusedLayer(layer, keep).forward
        return True
    if keep is ActivationCheckpointing.full:
        causal_lm(model).activation_checkpointing_enable()
    elif keep is ActivationCheckpointing.selective:
        for layer in layers:
            if not hasattr(layer, "mlp"):
                raise ConfigError(f"train.activation_checkpointing=selective finds no MLP in {type(layer).__name__}")
            layer.mlp.forward = functools.partial(checkpoint, layer.mlp.forward, use_reentrant=False)
    if compiled:
        for layer in layers:
            layer.compile(dynamic=True)
    return False
