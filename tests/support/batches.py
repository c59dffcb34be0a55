"""Requests for the scheduler, and what they must be answered."""

import pytest
import torch

from effchal.decoding.contrast import Dola, Sled
from effchal.decoding.sampling import SamplingParams

GREEDY = SamplingParams(max_new_tokens=12)


def ids(length, seed=0):
    return torch.randint(5, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def answers(scheduler, jobs, timeout_s=60):
    for job in jobs:
        scheduler.submit([job])
    for job in jobs:
        assert job.finished.wait(timeout_s)
    for job in jobs:
        if job.error:
            raise job.error
    return [job.completions for job in jobs]


def check_same(found, expected):
    assert found.ids == expected.ids
    assert found.text == expected.text
    assert [t.logprob for t in found.tokens] == pytest.approx(
        [t.logprob for t in expected.tokens], abs=1e-3
    )


WAYS = [
    SamplingParams(max_new_tokens=9),
    SamplingParams(max_new_tokens=14, contrast=Dola((0, 1))),
    SamplingParams(max_new_tokens=6, contrast=Sled((0, 1))),
    SamplingParams(max_new_tokens=17, temperature=0.9, seed=3, top_p=0.9),
    SamplingParams(max_new_tokens=5, repetition_penalty=1.3, alternatives=2),
    SamplingParams(max_new_tokens=3, echo_from=0),
]


def watched(engine, name, monkeypatch):
    """Gets an entry at each call of a method."""
    calls, original = [], getattr(engine, name)
    monkeypatch.setattr(engine, name, lambda *each: (calls.append(name), original(*each))[1])
    return calls
