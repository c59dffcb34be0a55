"""The oracles of layer-contrasting decoding on models: rows of any length, samples, scoring."""

import functools
import math
import random
from dataclasses import dataclass

import pytest
import torch
from support.adapted_models import fill_adapter
from support.slow_decoding import (
    CPU,
    all_states,
    answers,
    check_same,
    contrasts,
    params,
    prompts,
    slow_scores,
)

from effchal.config import LoraConfig, ModelConfig
from effchal.config.choices import Dtype, Quantization
from effchal.decoding.contrast import DROPPED_WHEN_SCORING, Dola, Greedy, Sled
from effchal.decoding.engine import Engine
from effchal.decoding.layer_logits import NO_LAYER
from effchal.decoding.sampling import SamplingParams, penalise_repetition
from effchal.decoding.score import Scorer
from effchal.kernels import premature_rows
from effchal.model.load import add_adapter, load_base_model
from effchal.model.tokenizer import load_tokenizer


def test_generation_with_a_cache_equals_the_formulas_without_one(engine):
    for contrast in contrasts(engine):
        ids = list(prompts(engine)[0])
        completion = engine.complete(ids, params(contrast))
        for token, token_id in zip(completion.tokens, completion.ids, strict=False):
            scores = slow_scores(engine, ids, contrast)
            best = scores.topk(2).values
            assert token_id == int(scores.argmax()) or best[0] - best[1] < 1e-4
            assert token.logprob == pytest.approx(float(scores.log_softmax(-1)[token_id]), abs=1e-3)
            assert max(token.top_logprobs.values()) == token.logprob
            ids.append(token_id)


@functools.cache  # neither changes what the other gives
def alone(engine, ids, sampling):
    """What a prompt gives by itself, all rows asked."""
    return engine.complete(list(ids), sampling)


@pytest.mark.parametrize("ask_first", [False, True])
def test_a_row_gives_the_same_tokens_alone_and_beside_any_others(engine, monkeypatch, ask_first):
    if ask_first:
        monkeypatch.setattr(premature_rows, "MANY_ROWS", 1)
    for contrast in contrasts(engine):
        expected = [alone(engine, tuple(ids), params(contrast)) for ids in prompts(engine)]
        rows = list(zip(prompts(engine), expected, strict=True)) * 2
        random.Random(0).shuffle(rows)
        together = answers(engine, [ids for ids, _ in rows], [params(contrast)], len(rows))
        for (_, expected), found in zip(rows, together, strict=True):
            check_same(found[0], expected)


@pytest.mark.parametrize("ask_first", [False, True])
def test_branches_of_one_prompt_give_what_each_gives_alone(engine, monkeypatch, ask_first):
    if ask_first:
        monkeypatch.setattr(premature_rows, "MANY_ROWS", 1)
    variants = [params(contrast) for contrast in contrasts(engine)]
    variants += [
        params(Greedy(), repetition_penalty=1.3),
        params(Greedy(), stops=("e",)),
        params(Greedy(), temperature=1.0, seed=3),
        params(Dola((0, 1), relative_top=0.5)),
        params(Dola((0, 1), min_tokens_to_keep=2)),
    ]
    ids = prompts(engine)[1]
    together = answers(engine, [ids], variants, 1)[0]
    for found, variant in zip(together, variants, strict=True):
        check_same(found, alone(engine, tuple(ids), variant))
    assert len({tuple(found.ids) for found in together}) > 2  # some do part


def test_rows_may_differ_in_everything(engine):
    rows = prompts(engine)
    mixed = [
        params(Greedy(), stops=("a",)),
        params(contrasts(engine)[1]),
        params(Greedy(), repetition_penalty=1.5),
        params(Greedy()),
    ]
    together = engine.generate(rows, [[variant] for variant in mixed], len(rows))
    for ids, variant, (found,) in zip(rows, mixed, list(together), strict=True):
        check_same(found, alone(engine, tuple(ids), variant))


@dataclass(frozen=True)
class Mean:
    """A contrast that the package does not know: mature and premature logits, averaged."""

    layers: tuple[int, ...]
    exit_norm: bool = True
    lone_share: float = 0.0

    def scores(self, logits, at):
        early = logits.premature_logits(logits.rows_of(self.layers, self.exit_norm), at)
        return (logits.mature[at] + early.mean(0)) / 2, torch.full_like(at, NO_LAYER)

    def target_logprobs(self, logits, targets):
        scores, _ = self.scores(logits, torch.arange(len(targets)))
        return scores.log_softmax(-1).gather(1, targets[:, None])[:, 0], None


def test_another_contrast_is_one_class(tiny_engine):
    ids = prompts(tiny_engine)[0]
    variants = [params(Mean((0, 1))), params(Greedy()), params(Dola((0, 1)))]
    found = answers(tiny_engine, [ids], variants, 1)[0]
    for token, token_id in zip(found[0].tokens, found[0].ids, strict=False):
        scores = slow_scores(tiny_engine, ids, Mean((0, 1)))
        assert token_id == int(scores.argmax())
        assert token.logprob == pytest.approx(float(scores.log_softmax(-1)[token_id]), abs=1e-3)
        (scored,) = Scorer(tiny_engine.model).score(ids, [[token_id]], [Mean((0, 1))])
        assert scored.logprobs == pytest.approx([token.logprob], abs=1e-3)
        ids = [*ids, token_id]


def test_only_the_most_probable_plausible_is_greedy(engine):
    greedy, one = params(Greedy()), params(Dola((0, 1), relative_top=1.0))
    for ids in prompts(engine):
        assert engine.complete(ids, greedy).ids == engine.complete(ids, one).ids


def test_a_penalty_works_after_the_contrast_on_prompt_and_answer(engine):
    ids = list(prompts(engine)[1])
    completion = engine.complete(ids, params(contrasts(engine)[1], repetition_penalty=1.4))
    for token_id in completion.ids:
        seen = torch.zeros(engine.model.vocabulary, dtype=torch.bool)
        seen[ids] = True
        scores = penalise_repetition(slow_scores(engine, ids, contrasts(engine)[1]), seen, 1.4)
        best = scores.topk(2).values
        assert token_id == int(scores.argmax()) or best[0] - best[1] < 1e-4
        ids.append(token_id)


def test_a_penalty_without_a_contrast_works_on_the_models_logits(engine):
    ids = list(prompts(engine)[1])
    for token_id in engine.complete(ids, params(Greedy(), repetition_penalty=1.4)).ids:
        states = all_states(engine, ids)[-1:, -1]
        seen = torch.zeros(engine.model.vocabulary, dtype=torch.bool)
        seen[ids] = True
        with torch.inference_mode():
            scores = penalise_repetition(engine.model.lm_head.module(states)[0], seen, 1.4)
        best = scores.topk(2).values
        assert token_id == int(scores.argmax()) or best[0] - best[1] < 1e-4
        ids.append(token_id)


def test_no_nan_goes_unnoticed(tiny_engine, monkeypatch):
    lm_head = tiny_engine.model.lm_head
    head = lm_head.product

    def spoilt(states):
        logits = head(states).clone()
        logits[: len(states) // 3] = float("nan")  # of the first layer
        return logits

    monkeypatch.setattr(lm_head, "product", spoilt)
    for contrast in (Dola((0, 1)), Sled((0, 1))):
        with pytest.raises(FloatingPointError):
            tiny_engine.complete([1, 2, 3], params(contrast))
        echo = {"max_new_tokens": 0, "echo_from": 0, "contrast": contrast, "contrast_prompt": True}
        with pytest.raises(FloatingPointError):
            tiny_engine.complete([1, 2, 3], SamplingParams(**echo))
        with pytest.raises(FloatingPointError):
            Scorer(tiny_engine.model).score([1, 2], [[3, 4, 5]], [contrast])


def test_log_probabilities_are_those_of_the_contrast_with_the_plain_ones_beside(engine):
    ids = prompts(engine)[0]
    contrast = contrasts(engine)[1]
    token = engine.complete(ids, params(contrast)).tokens[0]
    plain = slow_scores(engine, ids, Greedy())
    scores = slow_scores(engine, ids, contrast)
    best = int(scores.argmax())
    assert token.logprob == pytest.approx(float(scores.log_softmax(-1)[best]), abs=1e-4)
    assert token.base_logprob == pytest.approx(float(plain[best]), abs=1e-4)
    kept = (plain >= plain.max() + math.log(contrast.relative_top)).sum()
    assert token.layer in (contrast.layers if kept > 1 else [None])


def test_an_echoed_prompt_is_scored_plainly_unless_asked_for(engine):
    ids, contrast = prompts(engine)[3], contrasts(engine)[1]
    echo = {"max_new_tokens": 0, "echo_from": 0, "contrast": contrast}
    plain = engine.complete(ids, SamplingParams(**echo)).tokens
    asked = engine.complete(ids, SamplingParams(**echo, contrast_prompt=True)).tokens
    for i in range(1, len(ids)):
        expected = slow_scores(engine, ids[:i], Greedy())[ids[i]]
        assert plain[i].logprob == pytest.approx(float(expected), abs=1e-3)
        assert asked[i].base_logprob == plain[i].logprob
        expected = (
            slow_scores(engine, ids[:i], contrast)
            .log_softmax(-1)[ids[i]]
            .clamp_min(DROPPED_WHEN_SCORING)
        )
        assert asked[i].logprob == pytest.approx(float(expected), abs=1e-2)


def test_layers_that_won_are_counted(tiny_engine):
    before = tiny_engine.layer_counts.clone()
    completion = tiny_engine.complete([1, 2, 3], params(Dola((0, 1))))
    gained = tiny_engine.layer_counts - before
    assert gained.sum() == len(completion.ids)
    layers = [token.layer for token in completion.tokens]
    assert [layers.count(0), layers.count(1)] == pytest.approx(
        gained.tolist(), abs=1
    )  # the end token has no text


@pytest.mark.integration
@pytest.mark.parametrize(
    "lora", [LoraConfig(r=4), LoraConfig(r=4, target_modules=["q_proj", "lm_head"])]
)
@pytest.mark.parametrize("quantization", [None, Quantization.nf4])
def test_adapters_on_head_or_body_and_nf4_are_decoded_with(lora, quantization):
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.float32, quantization=quantization)
    model = add_adapter(load_base_model(cfg, CPU), lora, seed=0).eval()
    fill_adapter(model, std=0.3)
    engine = Engine(model, load_tokenizer(cfg))
    test_generation_with_a_cache_equals_the_formulas_without_one(engine)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].log_softmax(-1)
    assert torch.allclose(slow_scores(engine, [1, 2, 3], Greedy()), expected, atol=1e-4)
