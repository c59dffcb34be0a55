"""A decoder layer described by its parts, whatever its class is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from effchal.kernels.elementwise import GELU, GELU_TANH, SILU, Activation
from effchal.kernels.frozen_weight import is_four_bit
from effchal.kernels.lora_linear import base_and_adapter, is_plain
from effchal.kernels.norm import RmsNorm, rms_norm_of

ACTIVATIONS = {  # by the class of the library's module
    "SiLUActivation": SILU,
    "SiLU": SILU,
    "GELUTanh": GELU_TANH,
    "GELUActivation": GELU,
}


@dataclass(frozen=True)
class LayerParts:
    """norm, attention, add; norm, gated MLP, add.

    What stands beyond that is optional: norms of each head's queries and keys, norms of what is
    added, a multiplier of it, a window, layers without a rotary embedding.
    """

    attention: Any
    qkv: list[Any]
    out: Any
    gate_up: list[Any]
    down: Any
    norm_1: RmsNorm
    norm_2: RmsNorm
    act: Activation
    q_norm: RmsNorm | None  # and k_norm, too
    k_norm: RmsNorm | None
    after_attention: RmsNorm | None
    after_mlp: RmsNorm | None
    multiplier: float
    window: int | None
    rotates: bool

    @property
    def groups(self) -> tuple[list[Any], ...]:
        """The modules that share an input: q, k, v; out; gate, up; down."""
        return self.qkv, [self.out], self.gate_up, [self.down]


def parts_of(layer: Any) -> LayerParts | None:
    """The parts of the library's decoder layer; None where some are missing or unknown.

    That the layer puts them together as `LayerParts` says is for a trial to show.
    """
    attention: Any = getattr(layer, "self_attn", None)
    mlp: Any = getattr(layer, "mlp", None)
    qkv = _first(attention, ["qkv_proj"], ["q_proj", "k_proj", "v_proj"])
    gate_up = _first(mlp, ["gate_up_proj"], ["gate_proj", "up_proj"])
    out, down = _first(attention, ["o_proj"]), _first(mlp, ["down_proj"])
    act = ACTIVATIONS.get(type(_act_of(mlp)).__name__)
    if act is None or not all((qkv, out, gate_up, down)) or _caps(attention):
        return None
    sandwich = hasattr(layer, "pre_feedforward_layernorm")
    second = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
    after = ["post_attention_layernorm", "post_feedforward_layernorm"] if sandwich else []
    heads = [name for name in ("q_norm", "k_norm") if hasattr(attention, name)]
    norms = {
        name: rms_norm_of(getattr(owner, name, None))
        for owner, names in ((layer, ["input_layernorm", second, *after]), (attention, heads))
        for name in names
    }
    if None in norms.values() or len(heads) == 1:
        return None
    found = {name: norm for name, norm in norms.items() if norm is not None}
    if any(found[name].gain.shape[0] != attention.head_dim for name in heads):
        return None
    return LayerParts(
        attention=attention,
        qkv=qkv,
        out=out[0],
        gate_up=gate_up,
        down=down[0],
        norm_1=found["input_layernorm"],
        norm_2=found[second],
        act=act,
        q_norm=found.get("q_norm"),
        k_norm=found.get("k_norm"),
        after_attention=found[after[0]] if sandwich else None,
        after_mlp=found[after[1]] if sandwich else None,
        multiplier=getattr(layer, "residual_multiplier", 1.0),
        window=_window_of(attention),
        rotates=bool(getattr(attention, "use_rope", True)),
    )


def can_train(layer: Any, parts: LayerParts) -> bool:
    """Whether FusedLinear trains the projections: a plain adapter at most, no other dropout."""
    return all(map(_trains_as_one, parts.groups)) and not _drops_out(layer)


def _first(owner: Any, *choices: Sequence[str]) -> list[Any]:
    """The modules of the first choice whose names are all there."""
    for names in choices:
        if all(isinstance(getattr(owner, name, None), nn.Module) for name in names):
            return [getattr(owner, name) for name in names]
    return []


def _trains_as_one(modules: list[Any]) -> bool:
    """Whether FusedLinear trains them: all float or all 4-bit, all with a bias or none."""
    if not all(map(is_plain, modules)):
        return False
    bases = [found[0] for found in map(base_and_adapter, modules) if found is not None]
    return len({(base.bias is None, is_four_bit(base)) for base in bases}) == 1


def _act_of(mlp: Any) -> Any:
    return getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)


def _caps(attention: Any) -> bool:
    """Whether it bends its logits, which is too little to show in a trial."""
    name = "attn_logit_softcapping"
    return bool(getattr(attention, name, None) or getattr(attention.config, name, None))


def _drops_out(layer: Any) -> bool:
    """Whether the model itself has dropout, the adapters' aside."""
    inside = any(
        isinstance(module, nn.Dropout) and module.p > 0 and "lora_dropout" not in name
        for name, module in layer.named_modules()
    )
    return inside or getattr(layer.self_attn, "attention_dropout", 0) > 0


def _window_of(attention: Any) -> int | None:
    """Positions that it sees; where it keeps none itself, those of its config, as in Mistral."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    return getattr(attention.config, "sliding_window", None)
