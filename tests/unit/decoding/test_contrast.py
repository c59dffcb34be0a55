"""The oracles of layer-contrasting decoding, on random logits and on those of small models."""

import math

import pytest
import torch
from support.paths import needs_smollm2
from support.slow_decoding import scores_of

from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.contrast import Dola, Sled
from effchal.decoding.layer_logits import (
    NO_LAYER,
    LayerLogits,
    js_divergence,
    official_divergence,
    plausible,
    probabilities,
)
from effchal.decoding.sampling import penalise_repetition
from effchal.model.load import load_base_model
from effchal.model.tokenizer import load_tokenizer

B, K, V = 5, 6, 300
TEXT = "The capital of France is Paris, and the largest city of Turkey is"
REAL_LAYERS = {"tiny": [0, 1], "smollm2": [0, 8, 16, 20, 24, 28]}


@pytest.fixture(params=[0, 1, 2, "tiny", pytest.param("smollm2", marks=needs_smollm2)])
def logits(request):
    """(B, V) mature and (K, B, V) premature, float32."""
    if request.param in REAL_LAYERS:
        return real_logits(request, REAL_LAYERS[request.param])
    generator = torch.Generator().manual_seed(request.param)
    mature = 4 * torch.randn(B, V, generator=generator)
    return mature, mature + 3 * torch.randn(K, B, V, generator=generator)


def real_logits(request, layers):
    """Of the last B positions of a text, by the library's own forward pass."""
    if request.param == "tiny":
        cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
        model, tokenizer = load_base_model(cfg, torch.device("cpu")), load_tokenizer(cfg)
    else:
        model, tokenizer = request.getfixturevalue("smollm2")
    with torch.inference_mode():
        out = model(
            torch.tensor([tokenizer.encode(TEXT)]), use_cache=False, output_hidden_states=True
        )
        states = torch.stack([out.hidden_states[layer][0, -B:] for layer in layers])
        return out.logits[0, -B:].clone(), model.lm_head(states).clone()


def dola_scores(mature, premature, **keys):
    """(B, V) scores and (B,) layers of DoLa over all K premature layers."""
    return scores_of(Dola(tuple(range(len(premature))), **keys), mature, premature)


def sled_scores(mature, premature, rate, top_k):
    return scores_of(Sled(tuple(range(len(premature))), rate, top_k), mature, premature)[0]


def logs(logits):
    return tuple(part.log_softmax(-1) for part in logits)


def divergence_of(log_p, log_q, formula=js_divergence):
    """The divergence of log-probabilities whose shapes broadcast, in memory of its own."""
    work = log_q.new_empty(3, *torch.broadcast_shapes(log_p.shape, log_q.shape))
    return formula(log_p, log_q, probabilities(log_p), work)


def test_divergence_is_symmetric_bounded_and_zero_for_equals(logits):
    log_p, log_q = logs(logits)
    divergence = divergence_of(log_p, log_q)
    assert divergence.shape == log_q.shape[:2]
    assert torch.allclose(divergence, divergence_of(log_q, log_p), atol=1e-6)
    assert ((divergence > 0) & (divergence <= math.log(2))).all()
    assert divergence_of(log_p, log_p).abs().max() < 1e-6
    apart = torch.full((2, 4), -1e4)
    apart[0, 0] = apart[1, 1] = 0.0
    assert divergence_of(apart[0], apart[1]).item() == pytest.approx(math.log(2), abs=1e-6)


def test_divergence_is_that_of_its_definition(logits):
    log_p, log_q = (part.double().log_softmax(-1) for part in logits)
    p, q = log_p.exp(), log_q.exp()
    m = (p + q) / 2
    expected = 0.5 * (p * (p / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)
    assert torch.allclose(divergence_of(log_p, log_q), expected, atol=1e-12)


def test_sharp_layers_are_told_apart_where_float32_sees_ln_2_twice():
    """Both candidates miss almost all of p; the second shares ten times less with it."""
    log_p = torch.tensor([0.0, -21.0, -24.0, -30.0]).log_softmax(-1)
    log_q = torch.tensor([[-90.0, 0.0, -80.0, -70.0], [-90.0, -80.0, 0.0, -70.0]]).log_softmax(-1)
    divergence = divergence_of(log_p, log_q)
    assert (divergence.float() == torch.tensor(math.log(2))).all()
    p, q = log_p.double().exp(), log_q.double().exp()
    missing = 0.5 * (p * torch.log1p(q / p) + q * torch.log1p(p / q)).sum(-1)
    assert torch.allclose(math.log(2) - divergence, missing, rtol=1e-5, atol=0)
    assert divergence.argmax() == 1


def test_official_agrees_with_a_slow_float64_derivation(logits):
    log_p, log_q = logs(logits)
    found = divergence_of(log_p, log_q, official_divergence)
    for k in range(len(log_q)):
        for b in range(B):
            slow = 0.0
            for lp, lq in zip(
                log_p[b].double().tolist(), log_q[k, b].double().tolist(), strict=True
            ):
                m = (math.exp(lp) + math.exp(lq)) / 2
                slow += 0.5 * (m * (math.log(m) - lp) + m * (math.log(m) - lq)) / log_p.shape[-1]
            assert found[k, b].item() == pytest.approx(slow, abs=1e-6)


def test_the_scores_are_the_difference_of_the_furthest_layer(logits):
    mature, premature = logits
    scores, chosen = dola_scores(mature, premature, relative_top=0.1)
    for b in range(B):
        p = mature[b].double().softmax(-1)
        far = max(
            range(len(premature)),
            key=lambda k: divergence_of(p.log(), premature[k, b].double().log_softmax(-1)).item(),
        )
        expected = p.log() - premature[far, b].double().log_softmax(-1)
        kept = p >= 0.1 * p.max()
        assert chosen[b] == (far if kept.sum() > 1 else NO_LAYER)
        assert torch.isneginf(scores[b][~kept]).all()
        assert torch.allclose(scores[b][kept].double(), expected[kept], atol=1e-5)


@pytest.mark.parametrize("selector", ["jsd", "official", "static"])
def test_rows_do_not_know_their_neighbours(logits, selector):
    mature, premature = logits
    premature = premature[:1] if selector == "static" else premature
    scores, chosen = dola_scores(mature, premature, selector=selector)
    for b in range(B):
        alone, layer = dola_scores(mature[b : b + 1], premature[:, b : b + 1], selector=selector)
        assert torch.equal(alone[0], scores[b])
        assert layer[0] == chosen[b]


def test_relative_top_of_one_and_a_uniform_layer_are_greedy(logits):
    mature, premature = logits
    scores, _ = dola_scores(mature, premature, relative_top=1.0)
    assert torch.equal(scores.argmax(-1), mature.argmax(-1))
    scores, _ = dola_scores(mature, torch.zeros_like(premature), relative_top=0.1)
    assert torch.equal(scores.argmax(-1), mature.argmax(-1))
    kept = ~torch.isneginf(scores)
    assert torch.allclose(
        scores[kept], (mature.log_softmax(-1) + math.log(mature.shape[-1]))[kept], atol=1e-5
    )


def test_static_is_one_candidate_and_nothing_else(logits):
    mature, premature = logits
    assert torch.equal(
        dola_scores(mature, premature[1:2], selector="static")[0],
        dola_scores(mature, premature[1:2])[0],
    )
    with pytest.raises(ValueError, match=f"one premature layer, got {len(premature)}"):
        Dola(tuple(range(len(premature))), "static")


def test_plausible_tokens_are_those_near_the_best_and_a_least_number():
    log_p = torch.tensor([[0.6, 0.3, 0.07, 0.03]]).log()
    assert plausible(log_p, 0.1).tolist() == [[True, True, True, False]]
    assert plausible(log_p, 1.0).tolist() == [[True, False, False, False]]
    assert plausible(log_p, 1.0, min_tokens=3).tolist() == [[True, True, True, False]]
    assert plausible(log_p, 0.01, min_tokens=2).all()


def test_scoring_stays_finite_and_its_softmax_sums_to_one(logits):
    mature, premature = logits
    expected = dola_scores(*logits)[0].softmax(-1)  # implausible ones at -inf
    contrast = Dola(tuple(range(len(premature))))
    taps = tuple((layer, False) for layer in contrast.layers)
    for b in range(B):  # each of many tokens as the target at one position
        targets = torch.cat([expected[b].nonzero()[:, 0], torch.arange(20)])
        many = len(targets)
        same = mature[b].repeat(many, 1), premature[:, b, None].repeat(1, many, 1)
        logprobs, _ = contrast.target_logprobs(LayerLogits(*same, taps), targets)
        assert torch.isfinite(logprobs).all()
        assert torch.allclose(logprobs.exp(), expected[b, targets], atol=1e-6)
        assert logprobs[:-20].exp().sum() == pytest.approx(1, abs=1e-5)


def test_arithmetic_is_float32_whatever_comes_in(logits):
    mature, premature = (part.bfloat16() for part in logits)
    scores, _ = dola_scores(mature, premature)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, dola_scores(mature.float(), premature.float())[0])


def test_repetition_penalty_works_against_seen_tokens_of_either_sign():
    scores = torch.tensor([[2.0, -2.0, 2.0, -math.inf]])
    seen = torch.tensor([[True, True, False, True]])
    assert penalise_repetition(scores, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -math.inf]]
    assert torch.equal(penalise_repetition(scores, seen, 1.0), scores)


def test_sled_equals_the_slow_form_of_the_paper(logits):
    mature, premature = (part.double() for part in logits)
    rate, top_k = 1.5, 10
    result = sled_scores(mature, premature, rate, top_k)
    for b in range(B):
        ids = mature[b].topk(top_k).indices.tolist()
        s = torch.zeros(len(premature), top_k, dtype=torch.float64)
        for n in range(len(premature)):
            for j, i in enumerate(ids):
                direction = premature[n, b].softmax(-1).clone()
                direction[i] -= 1
                cosine = torch.cosine_similarity(direction, premature[n, b] - mature[b], dim=0)
                s[n, j] = max(0.0, cosine.item()) ** 2
        weights = s.sum(-1) / s.sum()
        estimate = sum(
            weights[n] * s[n] / s[n].sum() for n in range(len(premature)) if s[n].sum() > 0
        )
        expected = mature[b, ids] - rate * (mature[b].softmax(-1)[ids] - estimate)
        assert torch.allclose(result[b, ids].double(), expected, atol=1e-4)
        assert torch.isneginf(result[b]).sum() == mature.shape[-1] - top_k


def test_sled_with_nothing_to_learn_from_changes_nothing(logits):
    mature, premature = logits
    ids = mature.topk(10).indices
    same = sled_scores(mature, mature[None], rate=1.0, top_k=10)
    assert torch.equal(same.gather(-1, ids), mature.gather(-1, ids))
    still = sled_scores(mature, premature, rate=0.0, top_k=10)
    assert torch.equal(still.gather(-1, ids), mature.gather(-1, ids))
