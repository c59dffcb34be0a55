"""Log-probabilities of given continuations."""

import pytest
import torch
from support.slow_decoding import contrasts, prompts, slow_scores

from effchal.decoding import score
from effchal.decoding.contrast import DROPPED_WHEN_SCORING, Dola, Greedy, Sled
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer


def slow_logprob(engine, prompt, continuation, contrast):
    total, ids = 0.0, list(prompt)
    for token_id in continuation:
        scores = slow_scores(engine, ids, contrast)
        kept = scores.masked_fill(torch.isneginf(scores), DROPPED_WHEN_SCORING)
        bare = isinstance(contrast, Dola) and not contrast.post_softmax
        logprob = kept[token_id] if bare else kept.log_softmax(-1)[token_id]
        total += float(
            logprob.clamp_min(DROPPED_WHEN_SCORING) if isinstance(contrast, Sled) else logprob
        )
        ids.append(token_id)
    return total


def test_scores_of_continuations_equal_one_forward_pass_each(engine):
    prompt = prompts(engine)[1]
    continuations = [
        engine.tokenizer(text).input_ids for text in (" four", " 5 or more", " x", " four")
    ]
    continuations[2] = continuations[2][:1]
    chosen = [*contrasts(engine), Dola((0, 1), post_softmax=False), Dola((1,), relative_top=0.0)]
    found = Scorer(engine.model).score(prompt, continuations, chosen)
    for contrast, scores in zip(chosen, found, strict=True):
        for continuation, logprob in zip(continuations, scores.logprobs, strict=True):
            expected = slow_logprob(engine, prompt, continuation, contrast)
            assert logprob == pytest.approx(expected, abs=2e-3 * len(continuation), rel=1e-5)
        if isinstance(contrast, Dola):
            assert sum(scores.layers.values()) == sum(map(len, continuations))


def test_many_contrasts_at_once_score_as_each_alone_and_in_any_chunk(engine, monkeypatch):
    prompt, continuations = prompts(engine)[0], [[5, 6, 7], [8], [9, 10]]
    chosen = contrasts(engine)
    scorer = Scorer(engine.model)
    together = scorer.score(prompt, continuations, chosen, prefix_tokens=2)
    monkeypatch.setitem(score.LOGIT_BYTES, "cpu", 1)
    monkeypatch.setattr("effchal.decoding.score.PROMPT_CHUNK", 3)
    monkeypatch.setattr("effchal.decoding.score.SCORED_AT_ONCE", 4)
    assert score.split(continuations, 4) == [continuations[:2], continuations[2:]]
    assert score.split(continuations, 1) == [[ids] for ids in continuations]
    for contrast, scores in zip(chosen, together, strict=True):
        (alone,) = Scorer(engine.model).score(prompt, continuations, [contrast])
        assert alone.logprobs == pytest.approx(scores.logprobs, abs=1e-3)
        assert alone.layers == scores.layers
    again = scorer.score(prompt, continuations, chosen, prefix_tokens=2)
    assert [s.logprobs for s in again] == [pytest.approx(s.logprobs, abs=1e-3) for s in together]


def test_a_continuation_is_greedy_where_the_engine_would_write_it(engine, monkeypatch):
    monkeypatch.setattr(engine, "ends", set())
    prompt = prompts(engine)[1]
    for contrast in contrasts(engine):
        params = SamplingParams(4, contrast=contrast)
        written = engine.complete(prompt, params).ids
        other = [*written[:3], (written[3] + 1) % 250]
        asked = [written, other, written[:1], [*written[:1], *other[3:]]]
        (scores,) = Scorer(engine.model).score(prompt, asked, [contrast], greedy=True)
        assert scores.greedy == [True, False, True, asked[3] == written[:2]]
        (plain,) = Scorer(engine.model).score(prompt, asked, [contrast])
        assert plain.logprobs == scores.logprobs
        assert plain.greedy == []


def test_greedy_continuations_of_a_model_that_is_read_row_by_row(row_by_row_engine, tiny_engine):
    prompt = prompts(tiny_engine)[0]
    written = tiny_engine.complete(prompt, SamplingParams(3, ignore_eos=True)).ids
    asked = [written, [*written[:2], written[2] + 1], written[:2]]
    (scores,) = Scorer(row_by_row_engine.model).score(prompt, asked, [Greedy()], greedy=True)
    assert scores.greedy == [True, False, True]
