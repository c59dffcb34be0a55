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


def watched_reads(engine, monkeypatch):
    """How many prompts each step of the engine read beside the rows, where it read any."""
    reads, original = [], engine.step

    def step(prompts=()):
        if prompts and engine.rows:
            reads.append(len(prompts))
        original(prompts)

    monkeypatch.setattr(engine, "step", step)
    return reads
