"""bfloat16 weights on a CPU without arithmetic for them: they stay as they are, and are widened where they are used."""

import functools

import torch
from torch import Tensor, nn

from effchal.kernels.cpu_linear import Bf16Linear, ScratchBuffers, is_narrow


def widen_where_used(model: nn.Module) -> bool:
    """Let a model compute in float32 with its large weights as they are, in half of the memory.

    Embeddings and linear layers widen what they read; vectors (of norms, biases) become float32; NF4 layers multiply in
    it. A model with large weights elsewhere (experts in one tensor, GPT-2's Conv1D) is left alone.

    Returns:
        whether states are float32 now, and would not be otherwise.
    """
    narrow = [
        (module, parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if is_narrow(parameter)
    ]
    if not narrow or any(parameter.ndim > 1 and not _reads(module) for module, parameter in narrow):
        return False
    room = ScratchBuffers()
    for module, parameter in narrow:
        if parameter.ndim == 1:
            parameter.data = parameter.data.float()
        elif type(module) is nn.Linear:
            module.forward = functools.partial(_multiply, module, room)
        else:
            module.forward = functools.partial(_embed, module)
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype = torch.float32
    return True


def _reads(module: nn.Module) -> bool:
    return type(module) is nn.Linear or isinstance(module, nn.Embedding)


def _embed(module: nn.Embedding, ids: Tensor) -> Tensor:
    return type(module).forward(module, ids).float()


def _multiply(module: nn.Linear, room: ScratchBuffers, x: Tensor) -> Tensor:
    product = Bf16Linear(
        module.weight, room
    )  # made here: `fused` may have laid the weight elsewhere
    result = product(x.flatten(0, -2)).view(*x.shape[:-1], -1)
    return (
        result.clone() if module.bias is None else result + module.bias
    )  # the product's memory is used again
