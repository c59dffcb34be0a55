"""Random models: small ones for proofs, and one of Mistral-7B's shape, made on the card."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from common import ALL_LINEAR
from torch import nn

from effchal.config import LoraConfig
from effchal.mixing.encode import EncodedExample
from effchal.mixing.packing import MicroBatch, pack
from effchal.model.load import add_adapter
from gpu_check.measure import DEVICE, free_memory

SMALL = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
TOY = SMALL | {"hidden_size": 64, "intermediate_size": 128}
MISTRAL = {"sliding_window": 4096, "max_position_embeddings": 32768}  # the class's own are its


def small_model(
    kind: str, dtype: torch.dtype, window: int | None = None, tiny: bool = False
) -> Any:
    """A random model of llama, mistral or qwen2, the same for every dtype up to rounding."""
    import transformers

    config = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config"}[kind]
    more = {"sliding_window": window} if kind == "mistral" else {}
    shape = getattr(transformers, config)(**(TOY if tiny else SMALL), **more)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        shape, dtype=torch.float32, attn_implementation="sdpa"
    )
    draw_weights(model)
    return model.requires_grad_(False).to(DEVICE, dtype).eval()


@torch.no_grad()
def draw_weights(model: Any) -> None:
    """Weights that make every layer change the states, and some tokens likelier than others."""
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim == 1:
            parameter.add_(0.05 * noise)
        else:
            gain = 2.0 if parameter is head else 1.0
            fan_in = 1 if parameter is embeddings else parameter.shape[1]
            parameter.copy_(gain / fan_in**0.5 * noise)


def large_model(tiny: bool, layers: int | None = None) -> Any:
    """Random bfloat16 weights of Mistral-7B's shape, made on the device."""
    import transformers

    shape = transformers.MistralConfig(
        **(MISTRAL | TOY | {"num_hidden_layers": 4} if tiny else MISTRAL)
    )
    if layers is not None:
        shape.num_hidden_layers = layers
    with DEVICE:
        model = transformers.AutoModelForCausalLM.from_config(
            shape, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model.generation_config.eos_token_id = None
    return model.requires_grad_(False).eval()


def quantise(model: Any) -> Any:
    """Put bitsandbytes' NF4 layers in the place of all linear ones but the head."""
    import bitsandbytes as bnb

    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is not nn.Linear or module is head:
            continue
        packed = bnb.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=module.weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        packed.weight = bnb.nn.Params4bit(
            module.weight.data,
            requires_grad=False,
            compress_statistics=True,
            quant_type="nf4",
            module=packed,
        ).to(DEVICE)
        packed.bias = module.bias
        module.weight = None  # the list of modules holds it
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, packed)
    model.is_loaded_in_4bit = True  # peft asks for it
    free_memory()
    return model


def unpacked(model: Any) -> Any:
    """The same values in float32 and plain linear layers: what a quantised model stands for."""
    from bitsandbytes.functional import dequantize_4bit

    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Linear4bit":
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain = nn.Linear(module.in_features, module.out_features, bias=False, device=DEVICE)
            plain.weight.data = weight.float()
            plain.bias = module.bias
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, plain)
    model.is_loaded_in_4bit = False
    return model.float().requires_grad_(False)


def adapt(model: Any, r: int = 8, dropout: float = 0.0) -> Any:
    """Add a LoRA adapter whose two matrices are random, as after some training."""
    lora = LoraConfig(r=r, alpha=2 * r, dropout=dropout, target_modules=ALL_LINEAR)
    model = add_adapter(model, lora, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=draw))
    return model


def random_ids(length: int, vocabulary: int, seed: int) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (length,), generator=draw).tolist()


def micro_batch(lengths: list[int], vocabulary: int, seed: int = 0) -> MicroBatch:
    """Random examples of these lengths in one row; every next token is a target."""
    rows = [random_ids(length, vocabulary, 1000 * seed + i) for i, length in enumerate(lengths)]
    examples = [
        EncodedExample(str(i), np.array(row), np.array([*row[1:], -100]), False)
        for i, row in enumerate(rows)
    ]
    (batch,) = pack(examples, sum(lengths), True)
    return batch.to(DEVICE)


def examples_of(batch: MicroBatch) -> Iterator[torch.Tensor]:
    """(1, T) ids of each example of a row."""
    return iter(batch.input_ids.split(batch.lengths, dim=1))


def uneven_lengths(tokens: int, count: int) -> list[int]:
    """`count` lengths that come to `tokens`, as different as packed examples are."""
    lengths, rest = [], tokens
    for left in range(count, 1, -1):
        lengths.append(max(8, rest // left + (17 if left % 2 else -13) * tokens // 2048))
        rest -= lengths[-1]
    return [*lengths, rest]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_tokenizer(vocabulary: int) -> Any:
    """A tokenizer of so many words that spell their own numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(3, vocabulary)}
    special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    backend = Tokenizer(models.WordLevel(special | words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
