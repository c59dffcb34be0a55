"""Which modules of a model get an adapter."""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from effchal.config import ConfigError
from effchal.config.training import ALL_LINEAR, Targets
from effchal.model.structure import causal_lm

# Routers choose among experts or tokens by rank: most get no gradient, and training one moves
# tokens to experts that never saw them. Gemma 3n's altup reads weights past an adapter.
LEFT_OUT = re.compile(r"router|indexer|altup|(^|\.)(shared_expert_)?gate(\.|$)")


def adapter_targets(model: Any, wanted: Targets) -> list[str]:
    """The modules that `lora.target_modules` means in this model, as peft takes them.

    For `all-linear`, these are the full names of the decoder's linear layers. Left out are the
    head, routers and other towers (images, audio). So are weights of a state-space mixer that its
    kernels read past an adapter, and names that peft takes for a mixture's fused experts.

    Raises:
        ConfigError: a name that no linear layer has, or a model without linear layers.
    """
    names, experts = dict(linear_layers(model)), _names_of_experts(model)
    if wanted != ALL_LINEAR:
        known = {last(name) for name in names} - experts
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ConfigError(
                f"lora.target_modules has {unknown}; this model's linear layers are {sorted(known)}"
            )
        return list(wanted)
    inside = {id(module) for module in causal_lm(model).get_decoder().modules()}
    chosen = [
        name
        for name, module in names.items()
        if id(module) in inside
        and last(name) not in experts
        and not LEFT_OUT.search(name)
        and not _bypassed(model, name)
    ]
    if not chosen:
        raise ConfigError(
            f"lora.target_modules=all-linear finds no linear layer in {type(model).__name__}"
        )
    return chosen


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Full names and modules of all linear layers, the head among them."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's, with the weight transposed

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield name, module


def has_transposed_weights(model: nn.Module) -> bool:
    """Whether its linear layers are GPT-2's, (in, out); peft asks for it."""
    return any(not isinstance(module, nn.Linear) for name, module in linear_layers(model))


def last(name: str) -> str:
    """`q_proj` of model.layers.0.self_attn.q_proj."""
    return name.rpartition(".")[2]


def _names_of_experts(model: Any) -> set[str]:
    """Names that peft turns from linear layers into experts, which are one tensor of a layer.

    A model's dense layers and shared experts have them too, and would lose their adapters
    (private names of peft, checked with 0.21.2; earlier ones change nothing).
    """
    try:
        from peft.utils import transformers_weight_conversion as conversion
    except ImportError:
        return set()
    kinds: dict[str, str] = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", {})
    kind = kinds.get(causal_lm(model).config.model_type, "")
    return set(conversion._MOE_TARGET_MODULE_MAPPING.get(kind, ()))


def _bypassed(model: nn.Module, name: str) -> bool:
    """Whether a state-space mixer (Mamba) reads the weight itself, so that LoRA has no effect."""
    mixer = model.get_submodule(name.rpartition(".")[0])
    return hasattr(mixer, "A_log") and hasattr(mixer, "D") and last(name) != "in_proj"
