"""Decoding written plainly: the reference for the engine and the scorer."""

import torch

from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.contrast import dola_scores, sled_logits
from effchal.decoding.layers import Dola, Sled

CPU = torch.device("cpu")
TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
TEXTS = [
    "The capital of France is",
    "Q: What is 2 + 2?\nA:",
    "Once",
    "A long line of words that goes on for a while, ",
]


def contrasts(engine):
    layers = tuple(range(0, engine.model.num_layers, 2 if engine.model.num_layers > 2 else 1))
    return [None, Dola(layers), Dola(layers, selector="official", exit_norm=True), Sled(layers)]


def prompts(engine):
    return [engine.tokenizer(text).input_ids for text in TEXTS]


def all_states(engine, ids):
    """hidden_states of every layer of a plain forward pass without a cache: (N + 1, T, D)."""
    with torch.inference_mode():
        out = engine.model.backbone(
            input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True
        )
    return torch.stack([state[0] for state in out.hidden_states])


def slow_scores(engine, ids, contrast):
    """Next-token scores after ids, by a plain forward pass and the formulas on logits."""
    states = all_states(engine, ids)[:, -1]
    early = states[list(contrast.layers)] if contrast else states[:0]
    if contrast and contrast.exit_norm:
        early = engine.model._norm(early)
    with torch.inference_mode():
        mature, premature = engine.model._head(states[-1:]), engine.model._head(early)[:, None]
    if contrast is None:
        return mature[0].log_softmax(-1)
    if isinstance(contrast, Sled):
        return sled_logits(mature, premature, contrast.rate, contrast.top_k)[0]
    return dola_scores(mature, premature, contrast.relative_top, selector=contrast.selector)[0][0]
