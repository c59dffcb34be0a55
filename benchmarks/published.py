"""Memory that others published for 7B and 8B models on a GPU, beside what the planner says of their way to train.

Their way: the library's layers, and logits of all positions at once (torchtune: in eight chunks). What is compared is
tensors that are alive, so the allocator's rounding and the CUDA context are left out, as in their figures.
"""

import json

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from effchal.config import LoraConfig
from effchal.config.choices import Optimizer
from effchal.model.load import add_adapter
from effchal.planning import meta_model as blank
from effchal.planning.allocated import AllocatedBytes
from effchal.planning.memory import optimizer_bytes
from effchal.planning.meta_model import pack_weights, to_fake

GB, GIB = 1e9, 2**30
LLAMA_2_7B = {
    **{
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
    },
    **{"num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False},
}
LLAMA_31_8B = {
    **{
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
    },
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False},
}
MISTRAL_7B = LLAMA_31_8B | {"vocab_size": 32000}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# litgpt: tutorials/finetune_lora.md and resource-tables.md (2023-10-20, A100 40 GB): Alpaca, longest example 1,304
# tokens, micro-batch 1, LoRA r 8 on queries and values with dropout 0.05, adapters in bfloat16 (bf16-true).
# litgpt config_hub/finetune/mistral-7b/qlora.yaml (A10G): micro-batch 2 of 512 tokens, r 32, nf4 without double.
# torchtune README (2024-09): batch 2 packed to 2,048 tokens, torch.compile; config llama3_1/8B_qlora_single_device:
# r 8 on all linear layers, activation checkpointing, chunked loss.
PUBLISHED = [
    (
        "Llama-2-7B LoRA bf16",
        "litgpt, A100",
        21.30 * GB,
        LLAMA_2_7B,
        None,
        (1, 1304),
        8,
        0.05,
        ["q_proj", "v_proj"],
        False,
    ),
    (
        "Llama-2-7B NF4-dq",
        "litgpt, A100",
        13.84 * GB,
        LLAMA_2_7B,
        True,
        (1, 1304),
        8,
        0.05,
        ["q_proj", "v_proj"],
        False,
    ),
    (
        "Mistral-7B NF4",
        "litgpt, A10G",
        14.29 * GB,
        MISTRAL_7B,
        False,
        (2, 512),
        32,
        0.05,
        ["q_proj", "v_proj"],
        False,
    ),
    (
        "Llama-3.1-8B NF4-dq",
        "torchtune, RTX 4090",
        7.4 * GIB,
        LLAMA_31_8B,
        True,
        (2, 2048),
        8,
        0.0,
        ALL_LINEAR,
        True,
    ),
]


def planned(
    shape: dict,
    double: bool | None,
    rows: tuple[int, int],
    r: int,
    dropout: float,
    targets,
    recompute,
) -> int:
    """Bytes at the peak of a step: their batch, no packing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(
            LlamaConfig(**shape), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        model.requires_grad_(False)
        if double is not None:
            pack_weights(model, double)
        adapter = LoraConfig(r=r, dropout=dropout, target_modules=list(targets))
        model = add_adapter(model, adapter, 0).to(torch.bfloat16)
    with FakeTensorMode(), AllocatedBytes() as live:
        to_fake(model)
        model.train()
        inner = model.get_base_model()
        if recompute:
            inner.activation_checkpointing_enable()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        state = (
            optimizer_bytes(Optimizer.adamw, trainable, torch.device("cuda"))[0] // 2
        )  # of bfloat16 adapters
        for parameter in trainable:
            parameter.grad = torch.empty_like(parameter)
        ids = torch.empty(rows, dtype=torch.int64)
        hidden = inner.model(input_ids=ids, use_cache=False).last_hidden_state
        loss = loss_in_chunks(
            inner.lm_head, hidden.flatten(0, 1), ids.flatten(), 8 if recompute else 1
        )
        del hidden
        loss.backward()
        return live.peak + state


def loss_in_chunks(
    head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, chunks: int
) -> torch.Tensor:
    """In one piece; or in chunks, compiled: bfloat16 logits are kept, what follows from them is computed again."""

    def cross_entropy(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.float(), ids)

    if chunks == 1:
        return cross_entropy(head(hidden), targets)
    both = zip(hidden.chunk(chunks), targets.chunk(chunks), strict=True)
    return torch.stack(
        [checkpoint(cross_entropy, head(h), t, use_reentrant=False) for h, t in both]
    ).mean()


OF_TODAY = blank.PackedProduct


class OldPackedProduct(OF_TODAY):
    """bitsandbytes up to 0.42, the version of litgpt's figures, kept a 4-bit layer's input for the backward pass."""

    @staticmethod
    def forward(
        ctx, x: torch.Tensor, in_features: int, out_features: int, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x)
        return OF_TODAY.forward(ctx, x, in_features, out_features, bias)


def compare() -> None:
    for name, source, published, *setting in PUBLISHED:
        ours = of_today = planned(*setting)
        if "litgpt" in source:
            blank.PackedProduct = OldPackedProduct
            ours = planned(*setting)
            blank.PackedProduct = OF_TODAY
        unit, per = ("GiB", GIB) if "torchtune" in source else ("GB", GB)
        row = {"run": name, "source": source, f"published_{unit}": round(published / per, 2)}
        row |= {f"planned_{unit}": round(ours / per, 2), "off": round(ours / published - 1, 3)}
        row[f"inputs_kept_{unit}"] = round((ours - of_today) / per, 2)
        print("RESULT", json.dumps(row), flush=True)
