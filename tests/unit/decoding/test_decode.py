"""The oracles of layer-contrasting decoding on models: taps, rows of any length, branches, scoring."""

import itertools
import math
import random

import pytest
import torch
from support.slow_decoding import CPU, all_states, contrasts, prompts, slow_scores

from effchal.config import LoraConfig, ModelConfig
from effchal.config.choices import Dtype, Quantization
from effchal.decoding import taps
from effchal.decoding.contrast import DROPPED_WHEN_SCORING, penalise_repetition
from effchal.decoding.engine import Engine
from effchal.decoding.fused_forward import attention_with_shared_columns
from effchal.decoding.layers import Dola, Sled
from effchal.decoding.prefix_cache import common_beginning
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.model.load import add_adapter, load_base_model, load_tokenizer


def params(contrast, **more):
    return SamplingParams(max_new_tokens=12, contrast=contrast, alternatives=2, **more)


def answers(engine, prompts, variants, rows):
    """Completions by prompt, then by variant."""
    return list(engine.generate(prompts, [variants] * len(prompts), rows))


def check_same(found, expected):
    """The same tokens, but for a tie: two likeliest tokens closer than rounding can tell."""
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


def test_taps_equal_output_hidden_states_bit_for_bit(engine):
    ids = prompts(engine)[3]
    layers = range(engine.model.num_layers)
    taps = tuple((layer, False) for layer in layers)
    at = torch.tensor([0, 3, len(ids) - 1])
    with torch.inference_mode():
        states = engine.model.states(
            torch.tensor([ids]), torch.arange(len(ids))[None], None, None, taps, at
        )
    assert torch.equal(states, all_states(engine, ids)[:, at])


def test_taps_work_in_a_left_padded_batch(engine):
    rows = prompts(engine)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    taps = tuple((layer, False) for layer in range(engine.model.num_layers))
    at = torch.arange(1, len(rows) + 1) * width - 1
    with torch.inference_mode():
        states = engine.model.states(ids, positions, None, mask, taps, at)
    for i, row in enumerate(rows):
        expected = all_states(engine, row)[:, -1]
        assert (states[:, i] - expected).norm() <= 1e-4 * expected.norm()


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


@pytest.mark.parametrize("ask_first", [False, True])
def test_a_row_gives_the_same_tokens_alone_and_beside_any_others(engine, monkeypatch, ask_first):
    if ask_first:
        monkeypatch.setattr(taps, "MANY_ROWS", 1)
    for contrast in contrasts(engine):
        alone = [engine.complete(ids, params(contrast)) for ids in prompts(engine)] * 2
        rows = list(zip(prompts(engine) * 2, alone, strict=True))
        random.Random(0).shuffle(rows)
        together = answers(engine, [ids for ids, _ in rows], [params(contrast)], len(rows))
        for (_, expected), found in zip(rows, together, strict=True):
            check_same(found[0], expected)


@pytest.mark.parametrize("ask_first", [False, True])
def test_branches_of_one_prompt_give_what_each_gives_alone(engine, monkeypatch, ask_first):
    if ask_first:
        monkeypatch.setattr(taps, "MANY_ROWS", 1)
    variants = [params(contrast) for contrast in contrasts(engine)]
    variants += [
        params(None, repetition_penalty=1.3),
        params(None, stops=("e",)),
        params(None, temperature=1.0, seed=3),
        params(Dola((0, 1), relative_top=0.5)),
        params(Dola((0, 1), min_tokens_to_keep=2)),
    ]
    ids = prompts(engine)[1]
    together = answers(engine, [ids], variants, 1)[0]
    for found, variant in zip(together, variants, strict=True):
        check_same(found, engine.complete(ids, variant))
    assert len({tuple(found.ids) for found in together}) > 2  # some do part


def test_rows_may_differ_in_everything(engine):
    rows = prompts(engine)
    mixed = [
        params(None, stops=("a",)),
        params(contrasts(engine)[1]),
        params(None, repetition_penalty=1.5),
        params(None),
    ]
    together = engine.generate(rows, [[variant] for variant in mixed], len(rows))
    for ids, variant, (found,) in zip(rows, mixed, list(together), strict=True):
        check_same(found, engine.complete(ids, variant))


def test_only_the_likeliest_plausible_is_greedy(engine):
    greedy, one = params(None), params(Dola((0, 1), relative_top=1.0))
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
    for token_id in engine.complete(ids, params(None, repetition_penalty=1.4)).ids:
        states = all_states(engine, ids)[-1:, -1]
        seen = torch.zeros(engine.model.vocabulary, dtype=torch.bool)
        seen[ids] = True
        with torch.inference_mode():
            scores = penalise_repetition(engine.model._head(states)[0], seen, 1.4)
        best = scores.topk(2).values
        assert token_id == int(scores.argmax()) or best[0] - best[1] < 1e-4
        ids.append(token_id)


def test_no_nan_goes_unnoticed(tiny_engine, monkeypatch):
    head = tiny_engine.model.head

    def spoilt(states):
        logits = head(states).clone()
        logits[: len(states) // 3] = float("nan")  # of the first layer
        return logits

    monkeypatch.setattr(tiny_engine.model, "head", spoilt)
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
    plain = slow_scores(engine, ids, None)
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
        expected = slow_scores(engine, ids[:i], None)[ids[i]]
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


@pytest.mark.parametrize("selector", ["jsd", "official"])
def test_where_one_token_is_plausible_no_premature_layer_is_asked(engine, monkeypatch, selector):
    layers = tuple(range(engine.model.num_layers))
    choosy = Dola(layers, selector, relative_top=0.9)
    variants = [
        [params(choosy), params(choosy, repetition_penalty=1.3)],
        [params(choosy)],
        [params(None)],
    ]
    asked, rows = {}, []
    product = engine.model.head
    monkeypatch.setattr(
        engine.model, "head", lambda states: rows.append(len(states)) or product(states)
    )
    for many in (1, 1 << 20):
        monkeypatch.setattr(taps, "MANY_ROWS", many)
        monkeypatch.setattr(taps, "WORTH_ASKING", 0 if many == 1 else 2)
        rows.clear()
        asked[many] = [list(engine.generate(prompts(engine)[:3], variants, 3)), sum(rows)]
    assert asked[1][1] < asked[1 << 20][1]
    pairs = [zip(*both, strict=True) for both in zip(asked[1][0], asked[1 << 20][0], strict=True)]
    for found, expected in itertools.chain.from_iterable(pairs):
        check_same(found, expected)
        if found.ids == expected.ids:
            assert [token.layer for token in found.tokens] == [
                token.layer for token in expected.tokens
            ]
            for ours, theirs in zip(found.tokens, expected.tokens, strict=True):
                assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
    layers_asked = [token.layer for row in asked[1][0][:2] for each in row for token in each.tokens]
    assert None in layers_asked
    assert set(layers_asked) - {None}
    sure = [
        token
        for row in asked[1][0][:2]
        for each in row
        for token in each.tokens
        if token.layer is None
    ]
    assert all(token.logprob == 0 and len(token.top_logprobs) == 1 for token in sure)


def test_a_held_prefix_changes_nothing(engine):
    ids, variants = prompts(engine)[3], [params(contrast) for contrast in contrasts(engine)]
    expected = answers(engine, [ids], variants, 1)[0]
    engine.hold_prefix(ids[:6])
    for found, wanted in zip(answers(engine, [ids], variants, 1)[0], expected, strict=True):
        check_same(found, wanted)
    engine.hold_prefix(ids)  # the prompt itself: something must be left to read
    check_same(engine.complete(ids, variants[0]), expected[0])
    engine.hold_prefix([1])


def test_what_prompts_begin_with_alike_is_read_once_a_step_and_changes_nothing(engine, monkeypatch):
    read_once = []

    def counted(q, k, v, mask, shared, scale):
        read_once.append(shared)
        return attention_with_shared_columns(q, k, v, mask, shared, scale)

    examples = engine.tokenizer("The red fox sat on the mat. " * 8).input_ids
    few_shot = [examples + prompt for prompt in prompts(engine)]
    variants = [params(contrast) for contrast in contrasts(engine)]
    monkeypatch.setattr("effchal.decoding.fused_forward.WORTH_SHARING", math.inf)
    expected = answers(engine, few_shot, variants, 4)
    monkeypatch.setattr("effchal.decoding.fused_forward.attention_with_shared_columns", counted)
    monkeypatch.setattr("effchal.decoding.fused_forward.WORTH_SHARING", len(examples))
    found = answers(engine, few_shot, variants, 4)
    assert common_beginning(few_shot) in read_once
    for ours, theirs in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        check_same(ours, theirs)


@pytest.mark.parametrize(
    "lora", [LoraConfig(r=4), LoraConfig(r=4, target_modules=["q_proj", "lm_head"])]
)
@pytest.mark.parametrize("quantization", [None, Quantization.nf4])
def test_adapters_on_head_or_body_and_nf4_are_decoded_with(lora, quantization):
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.float32, quantization=quantization)
    model = add_adapter(load_base_model(cfg, CPU), lora, seed=0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    engine = Engine(model, load_tokenizer(cfg))
    test_generation_with_a_cache_equals_the_formulas_without_one(engine)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].log_softmax(-1)
    assert torch.allclose(slow_scores(engine, [1, 2, 3], None), expected, atol=1e-4)
