"""A decoder layer as one function, forward and backward by hand, to train LoRA.

Base weights are frozen, so they get no gradient. What is cheap to recompute (norms, the product of
gate and up, the attention's own state where asked) is not kept.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from effchal.config.choices import ActivationCheckpointing
from effchal.kernels.attention import attention_function
from effchal.kernels.dropout import draw_seed
from effchal.kernels.elementwise import gate, gate_again, gate_backward, rotate
from effchal.kernels.layer_parts import LayerParts, can_train, parts_of
from effchal.kernels.lora_linear import FusedLinear
from effchal.kernels.norm import RmsNorm
from effchal.kernels.scratch import ScratchBuffers


@dataclass
class Added:
    """What attention or MLP adds to the residual stream, where it is normed first."""

    raw: Tensor  # (T, D)
    scale: Tensor | None  # (T, 1) of its norm


@dataclass
class Activations:
    """What the backward pass needs besides the layer's input x. T positions, D hidden."""

    seed: int  # of the dropout masks
    scale_1: Tensor | None  # (T, 1) of the first norm, where its backward pass needs it
    qkv: Tensor  # (T, heads, head size), rotated
    attended: Tensor  # (T, heads x head size), with the graph of the attention behind it
    middle: Tensor  # (T, D): x and the attention's output
    scale_2: Tensor | None  # of the second norm
    heads: list[tuple[Tensor, Tensor | None]]  # queries and keys before their norms, and the scales
    from_attention: Added | None
    from_mlp: Added | None = None
    gate_up: Tensor | None = None  # (T, 2 x MLP size)
    low: dict[str, Tensor | None] = field(default_factory=dict)  # x A^T by projection


class FusedLayer:
    """Takes a layer's place: `layer.forward = FusedLayer(parts, keep, scratch).forward`."""

    def __init__(
        self, parts: LayerParts, keep: ActivationCheckpointing, scratch: ScratchBuffers
    ) -> None:
        """scratch: shared by all layers, for weights that are unpacked."""
        self.keep, self.parts, self.attention = keep, parts, parts.attention
        self.linears = [FusedLinear(modules, scratch) for modules in parts.groups]
        self.qkv, self.out, self.gate_up, self.down = self.linears

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for each in self.linears for parameter in each.parameters()]

    def draw_seed(self, x: Tensor) -> int:
        """Of this pass's dropout masks; where nothing is dropped, nothing is drawn."""
        return draw_seed(x) if any(each.drops for each in self.linears) else 0

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
        half = position_embeddings[0].shape[-1] // 2  # the other half is the same
        cos, sin = (
            angles.flatten(0, 1)[:, None, :half] for angles in position_embeddings
        )  # (T, 1, half)
        if torch.is_grad_enabled():
            y = self.differentiable(options, x, cos, sin, *self.parameters())
        else:
            y = self.output(self.activations(x, cos, sin, options, False, self.draw_seed(x)))
        return y.view_as(hidden_states)

    def differentiable(self, *inputs: Any) -> Tensor:
        return LayerFunction.apply(self, *inputs)

    def activations(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        options: dict[str, Any],
        differentiable: bool,
        seed: int,
    ) -> Activations:
        """All up to the MLP's gate and up."""
        normed, scale_1 = self.parts.norm_1.forward(x)
        qkv, low_qkv = self.qkv.forward(normed, seed=seed)
        qkv = qkv.unflatten(1, (-1, self.attention.head_dim))
        heads = self._norm_heads(qkv)
        if self.parts.rotates:
            qkv = rotate(qkv, cos, sin, self._turning(qkv))
        with torch.set_grad_enabled(differentiable):
            attended = self.attend(qkv.requires_grad_(differentiable), options)
        middle, low_out, added = self._add(
            self.out, attended.detach(), x, self.parts.after_attention, seed + 1
        )
        scale_2 = self.parts.norm_2.scale(middle)
        low = {"qkv": low_qkv, "out": low_out}
        done = Activations(seed, scale_1, qkv, attended, middle, scale_2, heads, added, low=low)
        self.add_gate_up(done)
        return done

    def _norm_heads(self, qkv: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Norm queries and keys in place; what they were, and the scales of their norms."""
        kept: list[tuple[Tensor, Tensor | None]] = []
        for part, norm in self._normed_heads(qkv):
            raw, scale = part.clone(), norm.scale(part)
            part.copy_(norm.apply(raw, scale))
            kept.append((raw, scale))
        return kept

    def _normed_heads(self, qkv: Tensor) -> list[tuple[Tensor, RmsNorm]]:
        """Views of the queries and of the keys, each with its norm; none where there are none."""
        if self.parts.q_norm is None or self.parts.k_norm is None:
            return []
        queries, keys, _ = qkv.split(self._counts(qkv), dim=1)
        return [(queries, self.parts.q_norm), (keys, self.parts.k_norm)]

    def _counts(self, qkv: Tensor) -> tuple[int, int, int]:
        """Heads of queries, keys and values."""
        groups = self.attention.num_key_value_groups
        kv_heads = qkv.shape[1] // (groups + 2)
        return groups * kv_heads, kv_heads, kv_heads

    def _turning(self, qkv: Tensor) -> int:
        """How many heads have positions: those of queries and keys."""
        queries, keys, _ = self._counts(qkv)
        return queries + keys

    def attend(self, qkv: Tensor, options: dict[str, Any]) -> Tensor:
        parts = qkv.split(self._counts(qkv), dim=1)
        q, k, v = (part.transpose(0, 1)[None] for part in parts)  # (1, heads, T, head size)
        function = attention_function(self.attention.config)
        own = {"scaling": self.attention.scaling, "sliding_window": self.parts.window}
        return function(self.attention, q, k, v, None, **own | options)[0][0].flatten(1)

    def add_gate_up(self, done: Activations) -> Tensor:
        normed = self.parts.norm_2.apply(done.middle, done.scale_2)
        done.gate_up, done.low["gate_up"] = self.gate_up.forward(normed, seed=done.seed + 2)
        return done.gate_up

    def output(self, done: Activations) -> Tensor:
        assert done.gate_up is not None
        product = gate(done.gate_up, self.parts.act)
        y, done.low["down"], done.from_mlp = self._add(
            self.down, product, done.middle, self.parts.after_mlp, done.seed + 3
        )
        return y

    def _add(
        self, linear: FusedLinear, x: Tensor, residual: Tensor, norm: RmsNorm | None, seed: int
    ) -> tuple[Tensor, Tensor | None, Added | None]:
        """(T, D) the residual stream and what is added to it; x A^T; what was normed."""
        if norm is None and self.parts.multiplier == 1:
            return *linear.forward(x, residual, seed), None
        raw, low = linear.forward(x, seed=seed)
        if norm is None:
            return torch.add(residual, raw, alpha=self.parts.multiplier), low, None
        normed, scale = norm.forward(raw)
        return normed.mul_(self.parts.multiplier).add_(residual), low, Added(raw, scale)

    def added_backward(self, dy: Tensor, norm: RmsNorm | None, added: Added | None) -> Tensor:
        """Gradient of a product that `_add` added; dy stays as it is."""
        if self.parts.multiplier != 1:
            dy = dy * self.parts.multiplier
        if norm is None or added is None:
            return dy
        return norm.backward(dy.clone(), added.raw, added.scale)

    def qkv_backward(self, d_qkv: Tensor, done: Activations, cos: Tensor, sin: Tensor) -> Tensor:
        """From rotated and normed queries and keys to those of the product; d_qkv is lost."""
        if self.parts.rotates:
            d_qkv = rotate(d_qkv, cos, sin, self._turning(d_qkv), back=True)
        for (part, norm), (raw, scale) in zip(self._normed_heads(d_qkv), done.heads, strict=True):
            part.copy_(norm.backward(part.clone(), raw, scale))
        return d_qkv


def trainable_parts(layers: Any) -> list[LayerParts]:
    """The parts of each layer; empty where FusedLayer cannot stand for every one."""
    found = []
    for layer in layers:
        parts = parts_of(layer)
        if parts is None or not can_train(layer, parts):
            return []
        found.append(parts)
    return found


@contextlib.contextmanager
def fused_layers(layers: Any) -> Iterator[bool]:
    """Compute the library's layers by FusedLayer for a while; whether their parts are known."""
    parts, scratch = [parts_of(layer) for layer in layers], ScratchBuffers()
    try:
        for layer, known in zip(layers, parts, strict=True):
            if known is not None:
                layer.forward = FusedLayer(known, ActivationCheckpointing.none, scratch).forward
        yield None not in parts
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


class LayerFunction(torch.autograd.Function):
    """(layer, options, x, cos, sin, *adapter parameters) -> y."""

    @staticmethod
    def forward(
        ctx, layer: FusedLayer, options: dict, x: Tensor, cos: Tensor, sin: Tensor, *_: Tensor
    ) -> Tensor:
        full = layer.keep is ActivationCheckpointing.full
        done = layer.activations(x, cos, sin, options, not full, layer.draw_seed(x))
        y = layer.output(done)
        if layer.keep is ActivationCheckpointing.selective:
            done.gate_up = None
        ctx.save_for_backward(x, cos, sin)
        ctx.layer, ctx.options, ctx.seed = layer, options, done.seed
        ctx.done = None if full else done
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple:
        layer: FusedLayer = ctx.layer
        x, cos, sin = ctx.saved_tensors
        done = ctx.done or layer.activations(x, cos, sin, ctx.options, True, ctx.seed)
        ctx.done = None  # else it stays in memory as long as the graph
        d_middle, mlp_gradients = mlp_backward(layer, dy, done)
        d_attended, out_gradients = layer.out.backward(
            layer.added_backward(d_middle, layer.parts.after_attention, done.from_attention),
            done.attended.detach(),
            done.low["out"],
            seed=done.seed + 1,
        )
        want_dx = ctx.needs_input_grad[2]
        dx: Tensor | None = None
        qkv_gradients: list[Tensor] = []
        if want_dx or layer.qkv.adapters:
            (d_qkv,) = torch.autograd.grad(done.attended, done.qkv, d_attended)
            d_qkv = layer.qkv_backward(d_qkv, done, cos, sin)
            normed = layer.parts.norm_1.apply(x, done.scale_1)
            dx, qkv_gradients = layer.qkv.backward(
                d_qkv.flatten(1), normed, done.low["qkv"], want_dx, done.seed
            )
        if dx is not None:
            dx = layer.parts.norm_1.backward(dx, x, done.scale_1, d_middle)
        return None, None, dx, None, None, *qkv_gradients, *out_gradients, *mlp_gradients


def mlp_backward(layer: FusedLayer, dy: Tensor, done: Activations) -> tuple[Tensor, list[Tensor]]:
    """Gradient of `middle`, the residual's included, and those of the MLP's adapters."""
    gate_up = layer.add_gate_up(done) if done.gate_up is None else done.gate_up
    if layer.parts.after_mlp is not None and done.from_mlp is None:
        layer.output(done)
    product, activated = gate_again(gate_up, layer.parts.act)
    d_product, down_gradients = layer.down.backward(
        layer.added_backward(dy, layer.parts.after_mlp, done.from_mlp),
        product,
        done.low.get("down"),
        seed=done.seed + 3,
    )
    assert d_product is not None
    d_gate_up = gate_backward(d_product, gate_up, activated, layer.parts.act)
    normed = layer.parts.norm_2.apply(done.middle, done.scale_2)
    d_normed, gate_up_gradients = layer.gate_up.backward(
        d_gate_up, normed, done.low["gate_up"], seed=done.seed + 2
    )
    assert d_normed is not None
    d_middle = layer.parts.norm_2.backward(d_normed, done.middle, done.scale_2, dy)
    return d_middle, [*gate_up_gradients, *down_gradients]
