"""transformers alone, example by example, eager and in float32: what every result must equal."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

from support.architectures import MULTIMODAL

# transformers 5.23 chooses what a position sees by all tokens of the pass, later ones too.
LOOK_AHEAD = ("deepseek-v3.2", "doge")
# Its eager attention adds the position's bias twice; sdpa once, as the model was trained.
NOT_EAGER = ("falcon, alibi",)


@dataclass
class Pass:
    """One row without a cache; position t predicts token t + 1."""

    logits: Tensor  # (T, V)
    hidden: list[Tensor]  # (T, D) each: embeddings, then each layer; the last one is normed


class Reference:
    """A model of the folder that `architectures.write_folder` wrote."""

    def __init__(self, name: str, folder: Path) -> None:
        auto = transformers.AutoModelForCausalLM
        if name in MULTIMODAL:
            auto = transformers.AutoModelForImageTextToText
        attention = "sdpa" if name in NOT_EAGER else "eager"
        self.model: Any = auto.from_pretrained(
            folder, attn_implementation=attention, dtype=torch.float32
        )
        self.model.eval()
        self._looks_ahead = name in LOOK_AHEAD
        config = self.model.config.get_text_config()
        rope = getattr(config, "rope_parameters", None) or {}
        self._switch = None
        if rope.get("rope_type") == "longrope":
            self._switch = rope["original_max_position_embeddings"]

    @torch.inference_mode()
    def read(self, ids: list[int]) -> Pass:
        """One forward pass over all of a row."""
        out = self.model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        return Pass(out.logits[0], [state[0] for state in out.hidden_states])

    @torch.inference_mode()
    def decode(self, ids: list[int], start: int) -> Pass:
        """From position `start` on, what each has where the tokens before it are all there is.

        A rope that switches its factors computes the first tokens anew then, so they come
        from a shorter pass.
        """
        whole = self.read(ids)
        ends = [] if self._switch is None or len(ids) <= self._switch else [self._switch]
        if self._looks_ahead:
            ends = list(range(len(ids) - 1, start, -1))
        for end in ends:  # the longest first; each one decides its own positions
            part = self.read(ids[:end])
            whole.logits[:end] = part.logits
            for state, own in zip(whole.hidden, part.hidden, strict=True):
                state[:end] = own
        return whole

    @torch.inference_mode()
    def head(self, states: Tensor) -> Tensor:
        """(P, D) -> (P, V): the model's own head and all that it does to logits afterwards."""
        hook = self.model.get_output_embeddings().register_forward_pre_hook(
            lambda module, args: (states[None],)
        )
        out = self.model(input_ids=torch.zeros(1, len(states), dtype=torch.int64), use_cache=False)
        hook.remove()
        return out.logits[0]

    def gradients(self, examples: list[tuple[list[int], list[int]]], like: Any) -> dict:
        """Gradients of the mean loss per target, from the library's own loss of each example.

        Args:
            examples: ids and labels of each.
            like: a peft model with the same base; its adapter's weights are copied.
        """
        source = {plain_name(n): p for n, p in like.named_parameters() if p.requires_grad}
        adapted = {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in source}
        config = copy.copy(like.peft_config["default"])
        config.target_modules = [
            n for n, _ in self.model.named_modules() if plain_name(n) in adapted
        ]
        model = peft.get_peft_model(copy.deepcopy(self.model), config)
        own = {plain_name(n): p for n, p in model.named_parameters() if "lora_" in n}
        for name, parameter in source.items():
            own[name].data.copy_(parameter.data)
        total = sum(label != -100 for _, labels in examples for label in labels[1:])
        for ids, labels in examples:
            targets = sum(label != -100 for label in labels[1:])
            out = model(
                input_ids=torch.tensor([ids]), labels=torch.tensor([labels]), use_cache=False
            )
            (out.loss * targets / total).backward()
        return {name: own[name].grad for name in source}


def plain_name(name: str) -> str:
    """A parameter's name, the same where a text tower stands alone or in a multimodal model."""
    return name.replace("language_model.", "")


def dola_logprobs(mature: Tensor, premature: Tensor, relative_top: float) -> Tensor:
    """(V,) log-probabilities of DoLa (arXiv:2309.03883) at one position, in float64.

    Args:
        mature: (V,) logits.
        premature: (K, V) logits of the candidate layers.
    """
    log_p, log_q = mature.double().log_softmax(-1), premature.double().log_softmax(-1)
    log_m = ((log_p.exp() + log_q.exp()) / 2).log()
    divergence = (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1)
    scores = log_p - log_q[divergence.argmax()]
    kept = log_p.exp() >= relative_top * log_p.exp().max()
    return scores.masked_fill(~kept, -math.inf).log_softmax(-1)
