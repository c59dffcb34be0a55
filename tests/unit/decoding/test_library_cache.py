"""Rows by the library's own cache answer as rows in ours do."""

from itertools import chain

import pytest
import torch
from support.batches import VARIANTS, check_same, ids

from effchal.decoding.contrast import Dola, Greedy
from effchal.decoding.recovery import step_apart
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.taps import NewTokens
from effchal.model.structure import causal_lm

PROMPTS = [ids(3, seed=1), ids(40, seed=2), ids(7, seed=3)]
SAMPLES = [SamplingParams(max_new_tokens=12, temperature=1.5, seed=seed) for seed in range(4)]


@pytest.mark.parametrize("variants", [VARIANTS, SAMPLES])
def test_answers_of_a_batch_are_the_same(tiny_engine, row_by_row_engine, variants):
    settings = [variants] * len(PROMPTS)
    wanted = list(tiny_engine.generate(PROMPTS, settings, 3))
    found = list(row_by_row_engine.generate(PROMPTS, settings, 3))
    for one, other in zip(chain(*found), chain(*wanted), strict=True):
        check_same(one, other)


def test_scores_of_continuations_are_the_same(tiny_engine, row_by_row_engine):
    continuations = [ids(1, seed=5), ids(6, seed=6), ids(1, seed=7), ids(4, seed=8)]
    contrasts = [Greedy(), Dola((0, 1))]
    wanted = Scorer(tiny_engine.model).score(PROMPTS[1], continuations, contrasts, 10)
    found = Scorer(row_by_row_engine.model).score(PROMPTS[1], continuations, contrasts, 10)
    for one, other in zip(found, wanted, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.layers == other.layers


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_after_a_fault_in_a_step_every_row_goes_on(row_by_row_engine, monkeypatch, calls):
    engine, params = row_by_row_engine, SamplingParams(max_new_tokens=9)
    wanted = [engine.complete(prompt, params) for prompt in PROMPTS]
    started = [engine.start(prompt, [params])[0] for prompt in PROMPTS]
    engine.step()
    inner, left = causal_lm(engine.model._whole).base_model, calls
    original = inner.forward

    def failing(*args, **kwargs):
        nonlocal left
        left -= 1
        result = original(*args, **kwargs)  # the library's cache has the token already
        if left == 0:
            raise RuntimeError("injected")
        return result

    monkeypatch.setattr(inner, "forward", failing)
    with pytest.raises(RuntimeError, match="injected"):
        engine.step()
    step_apart(engine)
    while engine.rows:
        engine.step()
    for sequence, completion in zip(started, wanted, strict=True):
        check_same(sequence.completion(), completion)


def test_what_a_row_holds_can_be_shortened(row_by_row_engine):
    tapped = row_by_row_engine.model
    cache, at = tapped.new_cache(), torch.tensor([0])
    cache.add_row()

    def extend(new):
        here = torch.tensor([new])
        return tapped.extend([NewTokens(cache, 0, here)], (), at + len(new) - 1)[-1]

    with torch.inference_mode():
        wanted = extend(PROMPTS[1])
        cache.shorten(0, 20)
        extend(PROMPTS[2])
        cache.shorten(0, 20)
        found = extend(PROMPTS[1][20:])
    assert torch.allclose(found, wanted, atol=1e-5)
    assert cache.lengths == [len(PROMPTS[1])]
