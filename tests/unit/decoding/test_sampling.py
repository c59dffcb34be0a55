"""All sampled rows of a step in one batch draw what each of them draws alone."""

import itertools

import pytest
import torch

from effchal.decoding.sampling import SamplingParams, sample

SETTINGS = [
    SamplingParams(1, temperature=0.7),
    SamplingParams(1, temperature=1.0, top_k=7),
    SamplingParams(1, temperature=2.5, top_k=40, top_p=0.8),
    SamplingParams(1, temperature=1.3, top_p=0.9),
    SamplingParams(1, temperature=9.0, top_p=0.97),  # of more tokens than a CPU sorts first
    SamplingParams(1, temperature=1.1, min_p=0.05),
    SamplingParams(1, temperature=4.0, min_p=0.001, top_p=0.5),
    SamplingParams(1, temperature=1.0, top_p=1e-300),
]


def logprobs_of(rows, vocabulary=6000, seed=0):
    scores = 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))
    return scores.log_softmax(-1)


def by_multinomial(logprobs, params, generator):
    """One row, as a reader of the definitions would write it."""
    probs = (logprobs / params.temperature).softmax(-1)
    probs = probs.where(probs >= params.min_p * probs.max(), 0.0)
    best, ids = probs.topk(min(params.top_k or len(probs), len(probs)))
    total = best.sum() if params.top_k else probs.sum()
    kept = max(1, int((best.cumsum(-1) - best < params.top_p * total).sum()))
    within = torch.zeros_like(probs).scatter_(0, ids[:kept], best[:kept])
    return int(torch.multinomial(within, 1, generator=generator))


@pytest.mark.parametrize("seed", range(5))
def test_a_row_among_others_draws_what_multinomial_draws_for_it_alone(seed):
    logprobs = logprobs_of(len(SETTINGS), seed=seed)
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(SETTINGS))]
    drawn = [sample(logprobs, SETTINGS, generators).tolist() for _ in range(6)]
    again = [torch.Generator().manual_seed(seed + row) for row in range(len(SETTINGS))]
    for row, (params, generator) in enumerate(zip(SETTINGS, again, strict=True)):
        alone = [by_multinomial(logprobs[row], params, generator) for _ in range(6)]
        assert [tokens[row] for tokens in drawn] == alone


def test_a_draw_does_not_hang_on_its_neighbours():
    logprobs = logprobs_of(3)
    for first, *others in itertools.permutations(range(3)):
        rows = torch.tensor([first, *others])
        generators = [torch.Generator().manual_seed(int(row)) for row in rows]
        params = [SETTINGS[4], *(SETTINGS[row] for row in others)]
        drawn = int(sample(logprobs[rows], params, generators)[0])
        generator = torch.Generator().manual_seed(first)
        assert drawn == by_multinomial(logprobs[first], SETTINGS[4], generator)


def test_a_row_without_numbers_harms_no_other_one():
    logprobs = logprobs_of(2)
    logprobs[0] = torch.nan
    params = [SETTINGS[3], SETTINGS[3]]
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    drawn = sample(logprobs, params, generators)
    assert torch.isnan(logprobs[0, drawn[0]])
    alone = by_multinomial(logprobs[1], SETTINGS[3], torch.Generator().manual_seed(1))
    assert drawn[1] == alone
