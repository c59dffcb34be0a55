"""The model of a config without its weights: the real modules, with tensors that have shapes and no memory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effchal.config import Config, ModelConfig
from effchal.config.choices import Quantization
from effchal.model.device import pick_dtype
from effchal.model.load import (
    add_adapter,
    base_model_config,
    base_model_path,
    quiet_libraries,
)

SHAPES = Path(__file__).parent / "shapes"  # config.json of the hub's models that conf/model names
NF4_BLOCK, CONSTANTS_BLOCK = 64, 256  # weights to a constant, constants to a constant of theirs


def build_meta_model(cfg: Config, device: torch.device, layers: int | None = None) -> nn.Module:
    """What load_base_model and add_adapter would give, on the meta device.

    Args:
        device: where the run will compute.
        layers: its first ones alone.
    """
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    shape = shape_config(cfg.model)
    if layers is not None:
        text = shape.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            shape, dtype=pick_dtype(cfg.model.dtype, device), attn_implementation="sdpa"
        )
        model.requires_grad_(False)
        if cfg.model.quantization is Quantization.nf4:
            pack_weights(model, cfg.model.double_quant)
        return model if cfg.lora is None else add_adapter(model, cfg.lora, cfg.train.seed)


def to_fake(model: nn.Module) -> None:
    """Meta tensors -> fake ones that say they lie on the CPU; what is shared stays shared. Under FakeTensorMode."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    made[id(tensor)] = (
                        nn.Parameter(fake, tensor.requires_grad)
                        if tensors is module._parameters
                        else fake
                    )
                tensors[name] = made[id(tensor)]


def shape_config(cfg: ModelConfig) -> Any:
    """The model's config.json: shipped, in its folder, or from the hub.

    Raises:
        ModelError: none of these.
    """
    return base_model_config(cfg, shipped_shape(cfg))


def shipped_shape(cfg: ModelConfig) -> Path | None:
    path = SHAPES / f"{cfg.name.replace('/', '--')}.json"
    return path if path.is_file() else None


def needs_download(cfg: ModelConfig) -> bool:
    return shipped_shape(cfg) is None and not Path(base_model_path(cfg)).is_dir()


def describe(shape: Any) -> str:
    """Class and sizes, which tell a model from others in whatever folder it lies."""
    text = shape.get_text_config()
    name = (shape.architectures or [shape.model_type])[0]
    mlp = getattr(text, "intermediate_size", None)
    sizes = f"{text.num_hidden_layers} layers, hidden {text.hidden_size}, MLP {mlp}, vocabulary {text.vocab_size}"
    return f"{name}, {sizes}"


def pack_weights(model: nn.Module, double_quant: bool) -> None:
    """Put a stand-in of four bits a weight in the place of every linear layer but the head."""
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, packed_linear(module, double_quant))
    model.is_loaded_in_4bit = True  # peft asks for it


def nf4_bytes(weights: int, double_quant: bool) -> int:
    """Of packed weights and their constants (float32, or a byte each with constants of their own)."""
    constants = -(-weights // NF4_BLOCK)
    if not double_quant:
        return weights // 2 + 4 * constants
    return weights // 2 + constants + 4 * -(-constants // CONSTANTS_BLOCK) + 4 * 256 + 4 * 16


def packed_linear(linear: nn.Linear, double_quant: bool) -> nn.Module:
    """A layer that peft takes for bitsandbytes' own, and that keeps in memory what that one keeps."""
    from bitsandbytes.nn import Linear4bit

    class FakeLinear4bit(Linear4bit):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.in_features, self.out_features = linear.in_features, linear.out_features
            size = nf4_bytes(linear.weight.numel(), double_quant)
            self.weight = nn.Parameter(torch.empty(size, dtype=torch.uint8), requires_grad=False)
            self.weight.compress_statistics, self.weight.quant_type = double_quant, "nf4"
            self.bias, self.compute_dtype = linear.bias, linear.weight.dtype

        def forward(self, x: Tensor) -> Tensor:
            return FakeMatMul4bit.apply(x, self.in_features, self.out_features, self.bias)

    return FakeLinear4bit()


class FakeMatMul4bit(torch.autograd.Function):
    """What bitsandbytes' MatMul4Bit does: unpack the weight, multiply, let it go; the same again backward."""

    @staticmethod
    def forward(ctx, x: Tensor, in_features: int, out_features: int, bias: Tensor | None) -> Tensor:
        ctx.shape = (out_features, in_features)
        return nn.functional.linear(x, x.new_empty(ctx.shape), bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple:
        return dy @ dy.new_empty(ctx.shape), None, None, None
