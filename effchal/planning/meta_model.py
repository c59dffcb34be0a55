"""The meta model: the real modules of a config's model, with shapes but without memory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effchal.admission.admit import admit_architecture
from effchal.config import Config, ModelConfig
from effchal.config.choices import Quantization
from effchal.model.device import pick_dtype
from effchal.model.load import add_adapter, base_model_config, check_model_config
from effchal.model.route import Route, set_route
from effchal.model.structure import own_attention
from effchal.model.text_model import from_config, keep_layers, text_model_class
from effchal.model.tokenizer import base_model_path, quiet_libraries

SHAPES = Path(__file__).parent / "shapes"  # config.json of hub models that conf/model names
FEW_ROWS = 4  # bitsandbytes' _GEMM_4BIT_CUSTOM_FLOOR_M; checked with 0.50.2
NF4_BLOCK, CONSTANTS_BLOCK = 64, 256  # weights per constant, constants per second-level constant


def build_meta_model(cfg: Config, device: torch.device, layers: int | None = None) -> Any:
    """What load_base_model and add_adapter would return, on the meta device.

    Args:
        device: where the run will compute.
        layers: keep only the first so many.
    """
    quiet_libraries()
    shape, route = shape_config(cfg.model), route_of_config(cfg.model)
    if layers is not None:
        keep_layers(shape.get_text_config(), layers)
    with torch.device("meta"):
        model = from_config(
            shape,
            dtype=pick_dtype(cfg.model.dtype, device),
            attn_implementation=own_attention(text_model_class(shape)),
        )
        model.requires_grad_(False)
        set_route(model, route)
        if cfg.model.quantization is Quantization.nf4:
            pack_weights(model, cfg.model.double_quant)
        return model if cfg.lora is None else add_adapter(model, cfg.lora, cfg.train.seed)


def route_of_config(cfg: ModelConfig) -> Route:
    """How training and decoding will compute with a model, by its config.json alone.

    Raises:
        ModelError: no config.json, or an architecture that is not supported.
    """
    return admit_architecture(shape_config(cfg), cfg.max_seq_len)


def to_fake(model: nn.Module, device: torch.device | None = None) -> None:
    """Turn meta tensors into fake ones, shared ones into shared ones.

    Call it under FakeTensorMode.

    Args:
        device: of the fake tensors; by default the CPU.
    """
    made: dict[int, Tensor] = {}

    def fake_of(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=device or "cpu")
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
        return made[id(tensor)]

    for module in model.modules():
        for named in (module.named_parameters, module.named_buffers):
            for name, tensor in list(named(recurse=False, remove_duplicate=False)):
                setattr(module, name, fake_of(tensor))


def shape_config(cfg: ModelConfig) -> Any:
    """The model's config.json: shipped with this package, in its folder, or from the hub.

    Raises:
        ModelError: it is in none of these places.
    """
    shape = base_model_config(cfg, shipped_shape(cfg))
    check_model_config(cfg, shape)
    return shape


def shipped_shape(cfg: ModelConfig) -> Path | None:
    path = SHAPES / f"{cfg.name.replace('/', '--')}.json"
    return path if path.is_file() else None


def needs_download(cfg: ModelConfig) -> bool:
    return shipped_shape(cfg) is None and not Path(base_model_path(cfg)).is_dir()


def describe(shape: Any) -> str:
    """Class and sizes of a model, which identify it whatever its folder."""
    text = shape.get_text_config()
    name = (shape.architectures or [shape.model_type])[0]
    mlp = getattr(text, "intermediate_size", None)
    return (
        f"{name}, {text.num_hidden_layers} layers, hidden {text.hidden_size}, MLP {mlp}, "
        f"vocabulary {text.vocab_size}"
    )


def pack_weights(model: Any, double_quant: bool) -> None:
    """Replace every linear layer but the head by a fake 4-bit one."""
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, packed_linear(module, double_quant))
    model.is_loaded_in_4bit = True  # peft asks for it


def nf4_bytes(weights: int, double_quant: bool) -> int:
    """Bytes of packed weights and their constants.

    A constant has four bytes. With double quantisation it has one, and second-level constants.
    """
    constants = -(-weights // NF4_BLOCK)
    if not double_quant:
        return weights // 2 + 4 * constants
    return weights // 2 + constants + 4 * -(-constants // CONSTANTS_BLOCK) + 4 * 256 + 4 * 16


def packed_linear(linear: nn.Linear, double_quant: bool) -> nn.Module:
    """A layer that peft takes for one of bitsandbytes, and that keeps the same bytes."""
    from bitsandbytes.nn import Linear4bit

    class FakeLinear4bit(Linear4bit):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.in_features, self.out_features = linear.in_features, linear.out_features
            packed = torch.empty(linear.weight.numel() // 2, 1, dtype=torch.uint8)
            constants = nf4_bytes(linear.weight.numel(), double_quant) - packed.nbytes
            self.register_buffer("constants", torch.empty(constants, dtype=torch.uint8))
            weight: Any = nn.Parameter(packed, requires_grad=False)
            weight.compress_statistics, weight.quant_type = double_quant, "nf4"  # peft reads them
            self.weight = weight
            self.bias, self.compute_dtype = linear.bias, linear.weight.dtype

        @property
        def W_q(self) -> Tensor:
            """By this name peft knows a layer that unpacks itself, which DoRA asks for."""
            return self.weight

        def dequantize(self) -> Tensor:
            """(out, in), written once."""
            shape = (self.out_features, self.in_features)
            return self.weight.new_zeros(shape, dtype=self.compute_dtype)

        def unpack_into(self, out: Tensor) -> None:
            """No numbers, but the traffic of writing them."""
            out.zero_()

        def forward(self, x: Tensor) -> Tensor:
            if not torch.is_grad_enabled() and x.numel() <= FEW_ROWS * self.in_features:
                # bitsandbytes multiplies so few rows with weights that stay packed.
                weight = x.new_empty(self.out_features, self.in_features)
                return nn.functional.linear(x, weight, self.bias)
            return FakeMatMul4bit.apply(x, self.in_features, self.out_features, self.bias)

    return FakeLinear4bit()


class FakeMatMul4bit(torch.autograd.Function):
    """Like MatMul4Bit of bitsandbytes: unpack the weight, multiply, free it; again in backward.

    zeros, not empty: unpacking writes the weight.
    """

    @staticmethod
    def forward(ctx, x: Tensor, in_features: int, out_features: int, bias: Tensor | None) -> Tensor:
        ctx.shape = (out_features, in_features)
        return nn.functional.linear(x, x.new_zeros(ctx.shape), bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple:
        return dy @ dy.new_zeros(ctx.shape), None, None, None
