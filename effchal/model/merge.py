"""An adapter added to the weights that it changes, and how far the answers move by that."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effchal.model.load import evaluation_mode
from effchal.model.structure import causal_lm, head

MOST_NATS = 0.1  # apart on average: beyond, it is another model, whatever was rounded


@dataclass(frozen=True)
class Drift:
    """The merged model against base model and adapter side by side, on the tokens of one text."""

    tokens: int
    same_choice: int  # of which the most likely next token is the same
    nats_mean: float  # between the log-probabilities of that token
    nats_max: float

    def __str__(self) -> str:
        return (
            f"log-probabilities {self.nats_mean:.2g} nats apart on average, {self.nats_max:.2g} at "
            f"most; the most likely token the same for {self.same_choice} of {self.tokens}"
        )


def merge_adapter(adapted: Any) -> Any:
    """Add a peft model's adapter to the weights, and return the plain model.

    Each sum is made in float32 and rounded once. The weights must not be quantised.
    """
    untie_adapted_head(adapted)
    for layer in adapted.modules():
        if not hasattr(layer, "lora_A"):
            continue
        weight = layer.get_base_layer().weight
        dtype = weight.dtype
        weight.data = weight.data.float()
        layer.merge(safe_merge=True)
        weight.data = weight.data.to(dtype)
    return adapted.base_model.unload()


def merge_and_measure(adapted: Any, ids: list[int]) -> tuple[Any, Drift]:
    """Merge an adapter, and compare the model before and after.

    Args:
        ids: of a text, at least one.
    """
    before = next_logprobs(adapted, ids)
    merged = merge_adapter(adapted).eval()
    after = next_logprobs(merged, ids)
    chosen = before.argmax(-1, keepdim=True)
    apart = (before.gather(-1, chosen) - after.gather(-1, chosen)).abs()
    same = int((after.argmax(-1, keepdim=True) == chosen).sum())
    return merged, Drift(len(ids), same, float(apart.mean()), float(apart.max()))


@torch.inference_mode()
def next_logprobs(model: Any, ids: list[int]) -> Tensor:
    """(T, V) float32 log-probabilities of the token behind each of T ids."""
    device = next(model.parameters()).device
    with evaluation_mode(model):
        logits = model(input_ids=torch.tensor([ids], device=device)).logits[0]
    return logits.float().log_softmax(-1)


def untie_adapted_head(model: Any) -> None:
    """Give a head with an adapter a weight of its own, where it is the embedding matrix.

    The adapter changes what the head makes of states, and not what ids mean.
    """
    whole, last = causal_lm(model), head(model)
    if not hasattr(last, "lora_A"):
        return
    linear, embeddings = last.get_base_layer(), whole.get_input_embeddings()
    if linear.weight is embeddings.weight:
        linear.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        whole.config.tie_word_embeddings = False
