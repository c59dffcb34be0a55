import math

import pytest
import torch
from support.paths import needs_smollm2

from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams, sample, within_top


def ids_of(engine, text):
    return engine.tokenizer(text).input_ids


def forward_logprobs(engine, ids):
    """Log-probabilities of a plain forward pass without a cache: (T, V)."""
    with torch.no_grad():
        hidden = engine.model.backbone(
            input_ids=torch.tensor([ids]), use_cache=False
        ).last_hidden_state
        return engine.model.lm_head.module(hidden)[0].float().log_softmax(-1)


def check_greedy_equals_a_plain_forward_pass(engine, prompt, tokens):
    completion = engine.complete(
        ids_of(engine, prompt), SamplingParams(max_new_tokens=tokens, alternatives=2)
    )
    ids = ids_of(engine, prompt)
    for token in completion.tokens:
        logprobs = forward_logprobs(engine, ids)[-1]
        best = int(logprobs.argmax())
        assert token.logprob == pytest.approx(float(logprobs[best]), abs=1e-4)
        assert max(token.top_logprobs.values()) == token.logprob
        ids.append(best)
    assert completion.text == engine.tokenizer.decode(ids)[len(prompt) :]


def test_greedy_with_a_cache_equals_a_plain_forward_pass(tiny_engine):
    check_greedy_equals_a_plain_forward_pass(tiny_engine, "Once upon", 12)


@needs_smollm2
def test_greedy_on_the_real_model_equals_a_plain_forward_pass(smollm2):
    check_greedy_equals_a_plain_forward_pass(Engine(*smollm2), "The capital of France is", 12)


def test_echo_gives_the_log_probabilities_of_the_prompt(tiny_engine):
    ids = ids_of(tiny_engine, "naïve text of some length")
    completion = tiny_engine.complete(
        ids, SamplingParams(max_new_tokens=0, echo_from=0, alternatives=3)
    )
    logprobs = forward_logprobs(tiny_engine, ids)
    expected = logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert completion.text == "naïve text of some length"
    assert [token.logprob for token in completion.tokens] == pytest.approx(
        [0.0, *expected.tolist()], abs=1e-4
    )
    assert completion.tokens[0].top_logprobs == {}
    assert all(len(token.top_logprobs) <= 3 for token in completion.tokens[1:])


def test_echo_can_leave_out_what_is_no_text_of_the_client(tiny_engine):
    ids = ids_of(tiny_engine, "xyz hello")
    completion = tiny_engine.complete(ids, SamplingParams(max_new_tokens=2, echo_from=3))
    assert completion.text.startswith(" hello")
    assert len(completion.tokens) == 6 + 2
    expected = forward_logprobs(tiny_engine, ids)[3, ids[4]]
    assert completion.tokens[1].logprob == pytest.approx(float(expected), abs=1e-4)


def sample_one(logprobs, params, generator):
    return int(sample(logprobs[None], [params], [generator]))


@pytest.mark.integration
def test_sampling_follows_the_distribution():
    logprobs = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)

    def shares(**options):
        params = SamplingParams(max_new_tokens=1, **({"temperature": 1.0} | options))
        drawn = [sample_one(logprobs.clone(), params, generator) for _ in range(4000)]
        return [drawn.count(i) / 4000 for i in range(4)]

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert shares(temperature=0.5) == pytest.approx((squared / squared.sum()).tolist(), abs=0.03)
    assert shares(top_p=0.6) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(top_p=0.5) == [1, 0, 0, 0]
    assert shares(top_p=1e-300) == [1, 0, 0, 0]
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(temperature=1e-7) == [1, 0, 0, 0]


@pytest.mark.integration
@pytest.mark.parametrize(("spread", "top_p"), [(0.1, 0.3), (0.1, 0.9), (3.0, 0.9), (3.0, 0.9999)])
def test_top_p_of_a_large_vocabulary_is_that_of_the_sorted_whole(spread, top_p):
    generator = torch.Generator().manual_seed(0)
    logprobs = (spread * torch.randn(6000, generator=generator)).log_softmax(-1)
    probs, ids = logprobs.exp().sort(descending=True)
    size = int((probs.cumsum(-1) - probs < top_p).sum())
    rank = torch.empty_like(ids).scatter_(0, ids, torch.arange(6000))
    params = SamplingParams(max_new_tokens=1, temperature=1.0, top_p=top_p)
    drawn = torch.tensor([int(rank[sample_one(logprobs, params, generator)]) for _ in range(1500)])
    assert drawn.max() < size
    below = probs[:size].cumsum(-1) / probs[:size].sum()
    for share in (0.25, 0.5, 0.75):  # of the mass, and of the draws
        at = int((below <= share).sum())
        assert (drawn < at).float().mean() == pytest.approx(
            float(below[at - 1]) if at else 0.0, abs=0.04
        )


@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_of_equal_tokens_the_one_that_greedy_takes_comes_first(top_k):
    """bfloat16 has many equal logits, and topk puts any of them first."""
    generator = torch.Generator().manual_seed(0)
    probs = (torch.randn(200, 3000, generator=generator) * 3).round().softmax(-1)
    greedy = probs.argmax(-1)
    is_tied = (probs == probs.amax(-1, keepdim=True)).sum(-1) > 1
    assert is_tied.sum() > 20
    kept = within_top(probs, top_k, torch.full((200, 1), 1e-5))
    assert (kept > 0).sum(-1).tolist() == [1] * 200
    assert torch.equal(kept.argmax(-1), greedy)
    wide = within_top(probs, 2, torch.ones(200, 1))
    assert (wide > 0).sum(-1).tolist() == [2] * 200
    assert torch.equal(wide.sum(-1), probs.topk(2).values.sum(-1))


@pytest.mark.integration
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_draw_does_not_hang_on_the_rounding_of_other_tokens(top_p):
    """One probable token and 40,000 others: its last digits move where theirs would begin."""
    logits = torch.zeros(40_001)
    logits[0] = math.log(40_000)
    params = SamplingParams(max_new_tokens=1, temperature=1.0, top_p=top_p)

    def drawn(scores):
        return [
            sample_one(scores.log_softmax(-1), params, torch.Generator().manual_seed(seed))
            for seed in range(200)
        ]

    before = drawn(logits)
    logits[0] += 1e-4
    assert sum(token > 0 for token in before) > 50
    assert sum(a != b for a, b in zip(before, drawn(logits), strict=True)) <= 2


def test_a_seed_repeats_a_sample_and_no_seed_does_not(tiny_engine):
    def text(seed):
        params = SamplingParams(max_new_tokens=30, temperature=1.5, seed=seed)
        return tiny_engine.complete([1, 2, 3], params).text

    assert text(1) == text(1) != text(2)
    assert len({text(None) for _ in range(4)}) == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(tiny_engine, temperature, monkeypatch):
    head = tiny_engine.model.lm_head.product
    monkeypatch.setattr(
        tiny_engine.model.lm_head, "product", lambda states: head(states) * float("nan")
    )
    with pytest.raises(FloatingPointError, match="not finite"):
        tiny_engine.complete([1, 2], SamplingParams(max_new_tokens=1, temperature=temperature))
    monkeypatch.undo()
    assert tiny_engine.complete(
        [1, 2], SamplingParams(max_new_tokens=1)
    ).tokens  # nothing of it is left


def test_bytes_per_token_are_those_of_the_cache(tiny_engine):
    tiny_engine.start(list(range(5, 15)), [SamplingParams(max_new_tokens=5)])
    rows, tokens = tiny_engine.cache.capacity
    assert tiny_engine.cache.nbytes() == rows * tokens * tiny_engine.model.bytes_per_token
    tiny_engine.clear()
    # Keys and values of two layers, two heads of 16 numbers each, in float32.
    assert tiny_engine.model.bytes_per_token == 2 * 2 * 2 * 16 * 4
