"""Prompts for the scheduler, and checks of their completions."""

import pytest
import torch

from effchal.decoding.contrast import Dola, Sled
from effchal.decoding.sampling import SamplingParams

GREEDY = SamplingParams(max_new_tokens=12)


def ids(length, seed=0):
    return torch.randint(5, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def answers(scheduler, prompts, timeout_s=60):
    for prompt in prompts:
        scheduler.submit([prompt])
    for prompt in prompts:
        assert prompt.finished.wait(timeout_s)
    for prompt in prompts:
        if prompt.error:
            raise prompt.error
    return [prompt.completions for prompt in prompts]


def check_same(found, expected):
    assert found.ids == expected.ids
    assert found.text == expected.text
    assert [t.logprob for t in found.tokens] == pytest.approx(
        [t.logprob for t in expected.tokens], abs=1e-3
    )


VARIANTS = [
    SamplingParams(max_new_tokens=9),
    SamplingParams(max_new_tokens=14, contrast=Dola((0, 1))),
    SamplingParams(max_new_tokens=6, contrast=Sled((0, 1))),
    SamplingParams(max_new_tokens=17, temperature=0.9, seed=3, top_p=0.9),
    SamplingParams(max_new_tokens=5, repetition_penalty=1.3, alternatives=2),
    SamplingParams(max_new_tokens=3, echo_from=0),
]


def watched(engine, name, monkeypatch):
    """A list that gets an entry at each call of the engine's method."""
    calls, original = [], getattr(engine, name)
    monkeypatch.setattr(engine, name, lambda *each: (calls.append(name), original(*each))[1])
    return calls
