"""An engine whose model says a given text, whatever the weights, and then ends."""

import torch
import torch.nn.functional as F

from effchal.decoding.engine import Engine
from effchal.decoding.layer_logits import LayerLogits


class Scripted:
    """A tapped model; what it scores of a prompt is the real model's."""

    def __init__(self, engine, text):
        self.model, self.script = engine.model, engine.tokenizer(text).input_ids
        self.eos_id = engine.tokenizer.eos_token_id
        self.lm_head = self

    def __getattr__(self, name):
        return getattr(self.model, name)

    def logits(self, states, taps):
        return self.model.lm_head.logits(states, taps)

    def reset(self):
        """It keeps nothing of earlier answers."""

    def logits_to_choose(self, states, taps, contrasts):
        wanted = self.script.pop(0) if self.script else self.eos_id
        mature = 10 * F.one_hot(torch.tensor([wanted]), self.vocabulary).float()
        return [([0], LayerLogits(mature, None, taps))]


def scripted(engine, text):
    """A copy of `engine` for one answer at a time; special tokens in `text` are such tokens."""
    copy = Engine.__new__(Engine)
    copy.__dict__.update(engine.__dict__ | {"model": Scripted(engine, text)})
    return copy
