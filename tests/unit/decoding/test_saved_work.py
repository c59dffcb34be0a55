"""What the engine leaves out or does once for several rows changes no answer."""

import itertools
import math

import pytest
from support.slow_decoding import answers, check_same, contrasts, params, prompts

from effchal.decoding.contrast import Dola, Greedy
from effchal.decoding.prefix_cache import common_beginning
from effchal.kernels import premature_rows
from effchal.kernels.shared_prefix import attention_with_shared_prefix


@pytest.mark.parametrize("selector", ["jsd", "official"])
def test_where_one_token_is_plausible_no_premature_layer_is_asked(engine, monkeypatch, selector):
    layers = tuple(range(engine.model.num_layers))
    choosy = Dola(layers, selector, relative_top=0.9)
    variants = [
        [params(choosy, max_new_tokens=12), params(choosy, repetition_penalty=1.3)],
        [params(choosy, max_new_tokens=12)],
        [params(Greedy())],
    ]
    asked, rows = {}, []
    product = engine.model.lm_head.product
    monkeypatch.setattr(
        engine.model.lm_head, "product", lambda states: rows.append(len(states)) or product(states)
    )
    for many in (1, 1 << 20):
        monkeypatch.setattr(premature_rows, "MANY_ROWS", many)
        monkeypatch.setattr(premature_rows, "WORTH_SKIPPING", 0 if many == 1 else 2)
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
    engine.hold_prefixes([(ids[:6], "")])
    for found, wanted in zip(answers(engine, [ids], variants, 1)[0], expected, strict=True):
        check_same(found, wanted)
    engine.hold_prefixes([(ids, "")])  # the prompt itself: something must be left to read
    check_same(engine.complete(ids, variants[0]), expected[0])
    engine.hold_prefixes([([1], "")])


def test_what_prompts_begin_with_alike_is_read_once_a_step_and_changes_nothing(engine, monkeypatch):
    read_once = []

    def counted(q, k, v, mask, shared, reads, scale):
        read_once.append(shared)
        return attention_with_shared_prefix(q, k, v, mask, shared, reads, scale)

    examples = engine.tokenizer("The red fox sat on the mat. " * 8).input_ids
    few_shot = [examples + prompt for prompt in prompts(engine)]
    variants = [params(contrast) for contrast in contrasts(engine)]
    monkeypatch.setattr("effchal.kernels.shared_prefix.WORTH_SHARING", math.inf)
    expected = answers(engine, few_shot, variants, 4)
    monkeypatch.setattr("effchal.kernels.fused_forward.attention_with_shared_prefix", counted)
    monkeypatch.setattr("effchal.kernels.shared_prefix.WORTH_SHARING", len(examples))
    found = answers(engine, few_shot, variants, 4)
    assert common_beginning(few_shot) in read_once
    for ours, theirs in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        check_same(ours, theirs)
