"""Floating-point operations of a training step, per token."""

from dataclasses import dataclass
from typing import Any

from effchal.config.choices import ActivationCheckpointing
from effchal.model.structure import causal_lm, head
from effchal.planning.workload import MicroBatchSize

# Share of the forward pass that is recomputed. Gate and up are about half of a layer's
# weights. Fused layers do not repeat the product with down.
RECOMPUTED = {
    ActivationCheckpointing.none: 0.0,
    ActivationCheckpointing.selective: 0.5,
    ActivationCheckpointing.full: 1.0,
}


@dataclass(frozen=True)
class Cost:
    """Work of a token: floating-point operations of products, bytes of all other operations."""

    forward: float
    training: float  # forward, backward, and what is recomputed of the forward pass
    forward_traffic: float  # bytes
    training_traffic: float
    launches: float  # operations that the host starts in training; a share of one for each token


def frozen_weights(model: Any, largest: MicroBatchSize) -> float:
    """Frozen weights that a token is multiplied with; the head's in proportion to its targets.

    torch.utils.flop_counter misses attention on a CPU and in-place products.
    """
    logits, total = head(model), 0.0
    for name, module in model.named_modules():
        is_linear = hasattr(module, "in_features") and not hasattr(module, "base_layer")
        if is_linear and "lora_" not in name:
            share = largest.targets / largest.tokens if module is logits else 1.0
            total += share * module.in_features * module.out_features
    return total


def attention_flops(model: Any, largest: MicroBatchSize) -> int:
    """Operations of a token's attention; it sees half of the positions on average."""
    config: Any = causal_lm(model).config
    shape = config.get_text_config()
    return 2 * shape.num_hidden_layers * shape.hidden_size * largest.longest
