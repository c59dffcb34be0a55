"""Memory that others published for 7B and 8B models on a GPU, and what the planner says of it.

Planned is their way to train: the library's layers, and logits of all positions at once
(torchtune: in eight chunks). Compared are allocated tensors. The allocator's rounding and the
CUDA context are left out, as in their figures.
"""

from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from common import ALL_LINEAR, print_result
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from effchal.config import LoraConfig
from effchal.config.choices import Optimizer
from effchal.model.load import add_adapter
from effchal.model.structure import checkpoint_layers
from effchal.planning import meta_model
from effchal.planning.allocated import AllocatedBytes
from effchal.planning.meta_model import pack_weights, to_fake
from effchal.planning.optimizer import optimizer_bytes

GB, GIB = 1e9, 2**30
LLAMA_2_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
}
LLAMA_31_8B = LLAMA_2_7B | {
    "vocab_size": 128256,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
}
MISTRAL_7B = LLAMA_31_8B | {"vocab_size": 32000}
QUERY_VALUE = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Setting:
    name: str
    source: str
    published: float  # bytes
    shape: dict[str, Any]
    double_quant: bool | None  # None: no quantization
    rows: tuple[int, int]  # examples, tokens of each
    r: int
    dropout: float
    targets: list[str]
    recompute: bool = False


# litgpt: tutorials/finetune_lora.md and resource-tables.md (2023-10-20, A100 40 GB): Alpaca,
# longest example 1,304 tokens, micro-batch 1, LoRA r 8 on queries and values with dropout
# 0.05, adapters in bfloat16 (bf16-true).
# litgpt config_hub/finetune/mistral-7b/qlora.yaml (A10G): micro-batch 2 of 512 tokens, r 32,
# nf4 without double quantisation.
# torchtune README (2024-09): batch 2 packed to 2,048 tokens, torch.compile; config
# llama3_1/8B_qlora_single_device: r 8 on all linear layers, activation checkpointing, chunked
# loss.
LITGPT = Setting(
    name="Llama-2-7B LoRA bf16",
    source="litgpt, A100",
    published=21.30 * GB,
    shape=LLAMA_2_7B,
    double_quant=None,
    rows=(1, 1304),
    r=8,
    dropout=0.05,
    targets=QUERY_VALUE,
)
LITGPT_MISTRAL = replace(
    LITGPT,
    name="Mistral-7B NF4",
    source="litgpt, A10G",
    published=14.29 * GB,
    shape=MISTRAL_7B,
    double_quant=False,
    rows=(2, 512),
    r=32,
)
TORCHTUNE = Setting(
    name="Llama-3.1-8B NF4-dq",
    source="torchtune, RTX 4090",
    published=7.4 * GIB,
    shape=LLAMA_31_8B,
    double_quant=True,
    rows=(2, 2048),
    r=8,
    dropout=0.0,
    targets=ALL_LINEAR,
    recompute=True,
)
PUBLISHED = [
    LITGPT,
    replace(LITGPT, name="Llama-2-7B NF4-dq", published=13.84 * GB, double_quant=True),
    LITGPT_MISTRAL,
    TORCHTUNE,
]


def planned(setting: Setting) -> int:
    """Bytes at the peak of a step: their batch, no packing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model: Any = LlamaForCausalLM._from_config(
            LlamaConfig(**setting.shape), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        model.requires_grad_(False)
        if setting.double_quant is not None:
            pack_weights(model, setting.double_quant)
        lora = LoraConfig(r=setting.r, dropout=setting.dropout, target_modules=setting.targets)
        model = add_adapter(model, lora, 0).to(torch.bfloat16)
    with FakeTensorMode(), AllocatedBytes() as allocated:
        to_fake(model)
        model.train()
        inner = model.get_base_model()
        if setting.recompute:
            checkpoint_layers(model)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        on_gpu, _ = optimizer_bytes(Optimizer.adamw, trainable, torch.device("cuda"))
        for parameter in trainable:
            parameter.grad = torch.empty_like(parameter)
        ids = torch.empty(setting.rows, dtype=torch.int64)
        hidden = inner.model(input_ids=ids, use_cache=False).last_hidden_state
        chunks = 8 if setting.recompute else 1
        loss = loss_in_chunks(inner.lm_head, hidden.flatten(0, 1), ids.flatten(), chunks)
        del hidden
        loss.backward()
        return allocated.peak + on_gpu // 2  # the state of bfloat16 adapters


def loss_in_chunks(
    head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, chunks: int
) -> torch.Tensor:
    """The loss at once; or compiled and in chunks, which keep bfloat16 logits and recompute."""

    def cross_entropy(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.float(), ids)

    if chunks == 1:
        return cross_entropy(head(hidden), targets)
    both = zip(hidden.chunk(chunks), targets.chunk(chunks), strict=True)
    losses = [checkpoint(cross_entropy, head(h), t, use_reentrant=False) for h, t in both]
    return torch.stack(losses).mean()


CURRENT = meta_model.FakeMatMul4bit


class OldMatMul4bit(CURRENT):
    """Keeps its input for the backward pass, as bitsandbytes did up to 0.42, litgpt's version."""

    @staticmethod
    def forward(
        ctx, x: torch.Tensor, in_features: int, out_features: int, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x)
        return CURRENT.forward(ctx, x, in_features, out_features, bias)


def compare() -> None:
    for setting in PUBLISHED:
        ours = current = planned(setting)
        if "litgpt" in setting.source:
            with mock.patch.object(meta_model, "FakeMatMul4bit", OldMatMul4bit):
                ours = planned(setting)
        unit, per = ("GiB", GIB) if "torchtune" in setting.source else ("GB", GB)
        row = {
            "run": setting.name,
            "source": setting.source,
            f"published_{unit}": round(setting.published / per, 2),
            f"planned_{unit}": round(ours / per, 2),
            "off": round(ours / setting.published - 1, 3),
            f"inputs_kept_{unit}": round((ours - current) / per, 2),
        }
        print_result(row)
