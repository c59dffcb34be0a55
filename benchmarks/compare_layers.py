"""Fused layers against the library's own: loss, gradients, saved activations, processor time.

    python benchmarks/compare_layers.py [MODEL] [--tokens 1024] [--rounds 5] [--keep selective]

MODEL is a folder, by default SmolLM2-135M. One row of two examples, LoRA r 16 on all linear
layers, in float32 arithmetic. Both kinds of layers stay in one process and take turns. With
dropout the two draw other masks, so only memory and time are compared. --keep is the fused layers'
activation checkpointing; the library's keep all.
"""

import argparse
import json
import statistics
import time

import torch
from common import ALL_LINEAR, SMOLLM2
from torch import Tensor, nn

from effchal.config import LoraConfig, ModelConfig
from effchal.config.choices import ActivationCheckpointing, Dtype, Quantization
from effchal.kernels.attention import packed_hidden_states, use_packed_attention
from effchal.kernels.loss import chunked_loss
from effchal.model.load import add_adapter, load_base_model
from effchal.model.structure import backbone, head
from effchal.planning.allocated import AllocatedBytes
from effchal.training.layers import prepare_training

SETTINGS = {
    "float32": (None, 0.0),
    "NF4": (Quantization.nf4, 0.0),
    "NF4, dropout 0.05": (Quantization.nf4, 0.05),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(SMOLLM2))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    levels = [level.value for level in ActivationCheckpointing]
    parser.add_argument("--keep", choices=levels, default="none")
    args = parser.parse_args()
    for setting, (quantization, dropout) in SETTINGS.items():
        keep = ActivationCheckpointing(args.keep)
        models = [make(args.model, quantization, dropout, level) for level in (keep, None)]
        print(json.dumps({"setting": setting} | compare(*models, dropout, args)), flush=True)


def make(
    name: str,
    quantization: Quantization | None,
    dropout: float,
    keep: ActivationCheckpointing | None,
) -> nn.Module:
    """The model with an adapter that is not zero, prepared for training.

    Args:
        keep: what fused layers keep; None takes the library's layers.
    """
    cfg = ModelConfig(name=name, dtype=Dtype.float32, quantization=quantization)
    lora = LoraConfig(r=16, alpha=32, dropout=dropout, target_modules=ALL_LINEAR)
    model = add_adapter(load_base_model(cfg, torch.device("cpu")), lora, seed=0).train()
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter, std=0.02)
    if keep is not None:
        assert prepare_training(model, keep)
    else:
        use_packed_attention(model)
    return model


def compare(ours: nn.Module, library: nn.Module, dropout: float, args: argparse.Namespace) -> dict:
    (loss, gradients), (its_loss, its_gradients) = (step(m, args.tokens) for m in (ours, library))
    saved = [saved_bytes(model, args.tokens) for model in (ours, library)]
    seconds: list[list[float]] = [[], []]
    for _ in range(args.rounds):
        for model, times in zip((ours, library), seconds, strict=True):
            begun = time.process_time()
            step(model, args.tokens)
            times.append(time.process_time() - begun)
    ours_s, library_s = map(statistics.median, seconds)
    found = {
        "saved_mib": [round(size / 2**20) for size in saved],
        "share_of_saved": round(saved[0] / saved[1], 3),
        "cpu_s": [round(ours_s, 2), round(library_s, 2)],
        "share_of_time": round(ours_s / library_s, 3),
    }
    if dropout:
        return found
    pairs = zip(gradients, its_gradients, strict=True)
    worst = max(float((one - other).norm() / other.norm()) for one, other in pairs)
    return found | {"loss": its_loss, "loss_off": abs(loss / its_loss - 1), "gradients_off": worst}


def row(tokens: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """(1, T) ids and positions of two examples."""
    first = tokens // 3
    ids = torch.randint(1, 20_000, (1, tokens), generator=torch.Generator().manual_seed(0))
    return (
        ids,
        torch.cat([torch.arange(first), torch.arange(tokens - first)])[None],
        (first, tokens - first),
    )


def forward(model: nn.Module, tokens: int) -> Tensor:
    ids, positions, lengths = row(tokens)
    states = packed_hidden_states(model, ids, positions, lengths)[0]
    return chunked_loss(head(model), states[:-1], ids[0, 1:]) / (tokens - 1)


def step(model: nn.Module, tokens: int) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    loss = forward(model, tokens)
    loss.backward()
    return float(loss.detach()), [each.grad for each in model.parameters() if each.grad is not None]


def saved_bytes(model: nn.Module, tokens: int) -> int:
    """Bytes that wait for the backward pass when the layers are done."""
    kept = []
    with AllocatedBytes() as allocated:
        step(model, tokens)  # what stays allocated for good
        before = allocated.now
        hook = backbone(model).register_forward_hook(lambda *_: kept.append(allocated.now - before))
        step(model, tokens)
    hook.remove()
    return kept[0]


if __name__ == "__main__":
    main()
