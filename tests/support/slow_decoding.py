"""Decoding written plainly, the reference for engine and scorer, and what compares with it."""

import torch

from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.contrast import Dola, Greedy, Sled
from effchal.decoding.layer_logits import LayerLogits
from effchal.decoding.sampling import SamplingParams

CPU = torch.device("cpu")
NEW_TOKENS = 6
TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
TEXTS = [
    "The capital of France is",
    "Q: What is 2 + 2?\nA:",
    "Once",
    "A long line of words that goes on for a while, ",
]


def contrasts(engine):
    layers = tuple(range(0, engine.model.num_layers, 2 if engine.model.num_layers > 2 else 1))
    return [Greedy(), Dola(layers), Dola(layers, selector="official", exit_norm=True), Sled(layers)]


def prompts(engine):
    return [engine.tokenizer(text).input_ids for text in TEXTS]


def all_states(engine, ids):
    """hidden_states of every layer of a plain forward pass without a cache: (N + 1, T, D)."""
    with torch.inference_mode():
        out = engine.model.backbone(
            input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True
        )
    return torch.stack([state[0] for state in out.hidden_states])


def scores_of(contrast, mature, premature):
    """Scores and layers that a contrast of layers 0, 1, ... gives at each of B positions.

    mature: (B, V); premature: (K, B, V), left as they are.
    """
    taps = tuple((layer, contrast.exit_norm) for layer in contrast.layers)
    logits = LayerLogits(mature, premature.clone(), taps)
    return contrast.scores(logits, torch.arange(len(mature)))


def slow_scores(engine, ids, contrast):
    """Next-token scores after ids, by a plain forward pass and the formulas on logits."""
    states = all_states(engine, ids)[:, -1]
    early = states[list(contrast.layers)]
    if contrast.exit_norm:
        early = engine.model._norm(early)
    with torch.inference_mode():
        mature, premature = (
            engine.model.lm_head.module(states[-1:]),
            engine.model.lm_head.module(early)[:, None],
        )
    if contrast == Greedy():
        return mature[0].log_softmax(-1)
    return scores_of(contrast, mature, premature)[0][0]


def params(contrast, **more):
    more = {"max_new_tokens": NEW_TOKENS} | more
    return SamplingParams(contrast=contrast, alternatives=2, **more)


def answers(engine, prompts, variants, rows):
    """Completions by prompt, then by variant."""
    return list(engine.generate(prompts, [variants] * len(prompts), rows))


def check_same(found, expected):
    """The same tokens, but for a tie: two best tokens closer than rounding can tell."""
    for i, (a, b) in enumerate(zip(found.ids, expected.ids, strict=False)):
        if a != b:
            for completion in (found, expected):
                first, second = list(completion.tokens[i].top_logprobs.values())[:2]
                assert first - second < 1e-4, (found.text, expected.text)
            return
    assert (found.ids, found.text, found.finish_reason) == (
        expected.ids,
        expected.text,
        expected.finish_reason,
    )
