"""A decoder layer of Llama's shape as one function, forward and backward by hand, to train LoRA.

Base weights are frozen, so they get no gradient. What is cheap to recompute (norms, the product of
gate and up, the attention's own state where asked) is not kept.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effchal.config.choices import ActivationCheckpointing
from effchal.kernels.attention import attention_function
from effchal.kernels.lora_linear import FusedLinear, is_plain

KNOWN = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def fits(layer: Any) -> bool:
    """Whether FusedLayer computes what this layer would."""
    return (
        type(layer).__name__ in KNOWN
        and layer.mlp.config.hidden_act == "silu"
        and layer.self_attn.attention_dropout == 0
        and all(is_plain(layer.get_submodule(name)) for name in PROJECTIONS)
    )


@dataclass
class Activations:
    """What the backward pass needs besides the layer's input x. T positions, D hidden."""

    scale_1: Tensor  # (T, 1) of the first norm
    qkv: Tensor  # (T, heads, head size), rotated
    attended: Tensor  # (T, heads x head size), with the graph of the attention behind it
    middle: Tensor  # (T, D): x and the attention's output
    scale_2: Tensor  # (T, 1) of the second norm
    gate_up: Tensor | None = None  # (T, 2 x MLP size)
    low: dict[str, Tensor | None] = field(default_factory=dict)  # x A^T by projection


class FusedLayer:
    """Takes a layer's place: `layer.forward = FusedLayer(layer, keep).forward`."""

    def __init__(self, layer: Any, keep: ActivationCheckpointing) -> None:
        """layer: the library's decoder layer."""
        self.keep = keep
        self.attention = layer.self_attn
        self.window = getattr(layer.self_attn, "sliding_window", None)  # Qwen2
        if type(layer).__name__ == "MistralDecoderLayer":
            self.window = layer.self_attn.config.sliding_window
        self.norm_1, self.norm_2 = layer.input_layernorm, layer.post_attention_layernorm
        projections = [layer.get_submodule(name) for name in PROJECTIONS]
        self.qkv, self.out = FusedLinear(projections[:3]), FusedLinear(projections[3:4])
        self.gate_up, self.down = FusedLinear(projections[4:6]), FusedLinear(projections[6:])

    def parameters(self) -> list[nn.Parameter]:
        fused = (self.qkv, self.out, self.gate_up, self.down)
        return [parameter for each in fused for parameter in each.parameters()]

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **options: Any
    ) -> Tensor:
        """(1, T, D) -> (1, T, D). `options` are the library's, for its attention function."""
        if (
            options.pop("attention_mask", None) is not None
            or options.pop("past_key_values", None) is not None
        ):
            raise RuntimeError(
                "a model prepared for training takes no mask and no cache; "
                "call packed_hidden_states"
            )
        x = hidden_states.flatten(0, 1)  # (T, D)
        half = self.attention.head_dim // 2  # the other half of cosines and sines is the same
        cos, sin = (
            angles.flatten(0, 1)[:, None, :half] for angles in position_embeddings
        )  # (T, 1, half)
        if torch.is_grad_enabled():
            return LayerFunction.apply(self, options, x, cos, sin, *self.parameters()).view_as(
                hidden_states
            )
        return self.output(self.activations(x, cos, sin, options, False)).view_as(hidden_states)

    def activations(
        self, x: Tensor, cos: Tensor, sin: Tensor, options: dict, differentiable: bool
    ) -> Activations:
        """All up to the MLP's gate and up."""
        normed, scale_1 = rms_norm(x, self.norm_1)
        qkv, low_qkv = self.qkv.forward(normed)
        qkv = qkv.unflatten(1, (-1, self.attention.head_dim))
        apply_rotary_(self._queries_and_keys(qkv), cos, sin)
        with torch.set_grad_enabled(differentiable):
            attended = self.attend(qkv.requires_grad_(differentiable), options)
        middle, low_out = self.out.forward(attended.detach(), residual=x)
        scale_2 = norm_scale(middle, self.norm_2)
        done = Activations(
            scale_1, qkv, attended, middle, scale_2, low={"qkv": low_qkv, "out": low_out}
        )
        self.add_gate_up(done)
        return done

    def attend(self, qkv: Tensor, options: dict[str, Any]) -> Tensor:
        groups = self.attention.num_key_value_groups
        kv_heads = qkv.shape[1] // (groups + 2)
        parts = qkv.split((groups * kv_heads, kv_heads, kv_heads), dim=1)
        q, k, v = (part.transpose(0, 1)[None] for part in parts)  # (1, heads, T, head size)
        function = attention_function(self.attention.config)
        options = {"scaling": self.attention.scaling, "sliding_window": self.window} | options
        return function(self.attention, q, k, v, None, **options)[0][0].flatten(1)

    def add_gate_up(self, done: Activations) -> Tensor:
        normed = apply_norm(done.middle, done.scale_2, self.norm_2)
        done.gate_up, done.low["gate_up"] = self.gate_up.forward(normed)
        return done.gate_up

    def output(self, done: Activations) -> Tensor:
        assert done.gate_up is not None
        gate, up = done.gate_up.chunk(2, dim=-1)
        y, done.low["down"] = self.down.forward(F.silu(gate).mul_(up), residual=done.middle)
        return y

    def _queries_and_keys(self, qkv: Tensor) -> Tensor:
        groups = self.attention.num_key_value_groups
        return qkv[:, : qkv.shape[1] // (groups + 2) * (groups + 1)]


class LayerFunction(torch.autograd.Function):
    """(layer, options, x, cos, sin, *adapter parameters) -> y."""

    @staticmethod
    def forward(
        ctx, layer: FusedLayer, options: dict, x: Tensor, cos: Tensor, sin: Tensor, *_: Tensor
    ) -> Tensor:
        full = layer.keep is ActivationCheckpointing.full
        done = layer.activations(x, cos, sin, options, differentiable=not full)
        y = layer.output(done)
        if layer.keep is ActivationCheckpointing.selective:
            done.gate_up = None
        ctx.save_for_backward(x, cos, sin)
        ctx.layer, ctx.options, ctx.done = layer, options, None if full else done
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple:
        layer: FusedLayer = ctx.layer
        x, cos, sin = ctx.saved_tensors
        done = ctx.done or layer.activations(x, cos, sin, ctx.options, differentiable=True)
        ctx.done = None  # else it stays in memory as long as the graph
        d_middle, mlp_gradients = mlp_backward(layer, dy, done)
        d_attended, out_gradients = layer.out.backward(
            d_middle, done.attended.detach(), done.low["out"]
        )
        want_dx = ctx.needs_input_grad[2]
        dx: Tensor | None = None
        qkv_gradients: list[Tensor] = []
        if want_dx or layer.qkv.adapters:
            (d_qkv,) = torch.autograd.grad(done.attended, done.qkv, d_attended)
            apply_rotary_(layer._queries_and_keys(d_qkv), cos, -sin)
            normed = apply_norm(x, done.scale_1, layer.norm_1)
            dx, qkv_gradients = layer.qkv.backward(
                d_qkv.flatten(1), normed, done.low["qkv"], want_dx
            )
        if dx is not None:
            dx = rms_norm_backward(dx, x, done.scale_1, layer.norm_1).add_(d_middle)
        return None, None, dx, None, None, *qkv_gradients, *out_gradients, *mlp_gradients


def mlp_backward(layer: FusedLayer, dy: Tensor, done: Activations) -> tuple[Tensor, list[Tensor]]:
    """Gradient of `middle`, the residual's included, and those of the MLP's adapters."""
    gate_up = layer.add_gate_up(done) if done.gate_up is None else done.gate_up
    gate, up = gate_up.chunk(2, dim=-1)
    activated = F.silu(gate)
    d_product, down_gradients = layer.down.backward(dy, activated * up, done.low.get("down"))
    assert d_product is not None
    d_gate_up = torch.empty_like(gate_up)
    d_gate, d_up = d_gate_up.chunk(2, dim=-1)
    torch.mul(d_product, activated, out=d_up)
    torch.ops.aten.silu_backward.grad_input(d_product.mul_(up), gate, grad_input=d_gate)
    normed = apply_norm(done.middle, done.scale_2, layer.norm_2)
    d_normed, gate_up_gradients = layer.gate_up.backward(d_gate_up, normed, done.low["gate_up"])
    assert d_normed is not None
    d_middle = rms_norm_backward(d_normed, done.middle, done.scale_2, layer.norm_2).add_(dy)
    return d_middle, [*gate_up_gradients, *down_gradients]


def norm_scale(x: Tensor, norm: Any) -> Tensor:
    """(T, 1) float32: 1 / root mean square of x."""
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norms.square_().div_(x.shape[-1]).add_(norm.variance_epsilon).rsqrt_()


def apply_norm(x: Tensor, scale: Tensor, norm: Any) -> Tensor:
    return (x.float() * scale).to(x.dtype).mul_(norm.weight)


def rms_norm(x: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    scale = norm_scale(x, norm)
    return apply_norm(x, scale, norm), scale


def rms_norm_backward(dy: Tensor, x: Tensor, scale: Tensor, norm: Any) -> Tensor:
    """Gradient of x; overwrites dy."""
    dy, upcast = dy.mul_(norm.weight).float(), x.float()
    along = torch.linalg.vecdot(dy, upcast)[:, None].mul_(scale.pow(3)).div_(x.shape[-1])
    return dy.mul_(scale).addcmul_(upcast, along, value=-1).to(x.dtype)


def apply_rotary_(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary position embedding in place: (T, heads, head size) by (T, 1, head size / 2) angles."""
    first, second = heads.chunk(2, dim=-1)
    rotated = (first * cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(first, sin)
    first.copy_(rotated)
