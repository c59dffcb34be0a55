"""Greedy, DoLa and sampled answers against their definitions: a whole pass without a cache.

Steps are CUDA graphs, and the same answers are asked for without.
"""

import math
from collections import Counter
from typing import Any

import bitsandbytes
import torch
from torch import Tensor

from effchal.decoding.contrast import Contrast, Dola, Greedy
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Completion
from gpu_check.models import adapt, make_tokenizer, quantise, random_ids, small_model, unpacked
from gpu_check.recorder import Counted, forget, graphs
from gpu_check.session import Session

PROMPTS, NEW_TOKENS = (5, 40, 133, 300), 20  # tokens, twice as many as pass before a graph
CASES = (("llama", "float32", None), ("mistral", "float32", 24), ("llama", "bfloat16", None))
CASES += (("llama", "nf4", None),)
LAYERS, RELATIVE_TOP = (0, 1, 2), 0.1
DRAWS, TOP_P, TEMPERATURE = 512, 0.9, 0.8
EXACT, ROUNDED = 1e-3, 0.15  # nats that a chosen token may be below the best one
SAME = 0.9  # of bfloat16's tokens: DoLa takes another layer where two are about as far
CHI_SQUARE = 5.0  # standard deviations


def answers(session: Session) -> None:
    for kind, base, window in CASES:
        session.attempt(
            "answers",
            lambda s, a=(kind, base, window): answers_of(s, *a),
            model=kind,
            base=base,
            window=window,
        )


def answers_of(session: Session, kind: str, base: str, window: int | None) -> None:
    dtype = torch.bfloat16 if base == "bfloat16" else torch.float32
    model, reference = (small_model(kind, dtype, window, session.tiny) for _ in range(2))
    if base == "nf4":
        model, reference = quantise(model), unpacked(quantise(reference))
    model, reference = adapt(model).eval(), adapt(reference.float()).eval()
    engine, without = (Engine(model, make_tokenizer(512), each) for each in (Counted, None))
    prompts = [random_ids(length, 512, length) for length in PROMPTS]
    told = {"model": kind, "base": base, "window": window}
    is_rounded = base == "bfloat16" or (base == "nf4" and rounds_4_bits(engine.model.device))
    limit = ROUNDED if is_rounded else EXACT
    for how, contrast in (("greedy", Greedy()), ("dola", Dola(LAYERS, relative_top=RELATIVE_TOP))):
        params = SamplingParams(NEW_TOKENS, contrast=contrast, ignore_eos=True)
        forget()
        found, plain = (
            [one.ids for (one,) in each.generate(prompts, [[params]] * len(prompts), len(prompts))]
            for each in (engine, without)
        )
        nats, plain_nats = (
            [
                each
                for prompt, ids in zip(prompts, answers, strict=True)
                for each in nats_below_the_best(reference, contrast, prompt, ids)
            ]
            for answers in (found, plain)
        )
        shares = [sum(each <= limit for each in some) / len(some) for some in (nats, plain_nats)]
        made = graphs()
        session.tell(
            "answers",
            **told,
            how=how,
            worst_nats_below_best=max(nats),
            same_tokens=sum(each == 0 for each in nats),
            of=len(nats),
            **made,
            as_without_graphs=found == plain,
            ok=min(shares) >= (SAME if is_rounded else 1.0)
            and made["replays"] > 0
            and (is_rounded or found == plain),
        )
    if base == "float32":
        sampled(session, engine, reference, prompts[1], told)


def rounds_4_bits(device: torch.device) -> bool:
    """Whether bitsandbytes multiplies 4-bit weights in bfloat16, whatever the states' type."""
    return device.type == "cpu" and bool(bitsandbytes.functional.has_avx512bf16())


def nats_below_the_best(
    reference: Any, contrast: Contrast, prompt: list[int], answer: list[int]
) -> list[float]:
    """How far each token of an answer scores below the best one, by the definition."""
    scores = defined_scores(reference, contrast, prompt + answer[:-1])[len(prompt) - 1 :]
    best = scores.amax(-1)
    return (best - scores[torch.arange(len(answer)), torch.tensor(answer)]).tolist()


@torch.no_grad()
def defined_scores(reference: Any, contrast: Contrast, ids: list[int]) -> Tensor:
    """(T, V) float64 scores of the next token at each position, from one pass over all ids."""
    row = torch.tensor([ids], device=reference.device)
    out = reference(input_ids=row, output_hidden_states=True, use_cache=False)
    log_p = out.logits[0].double().log_softmax(-1).cpu()
    if not contrast.layers:
        return log_p
    head = reference.get_base_model().get_output_embeddings()
    early = [head(out.hidden_states[layer][0]).double().cpu() for layer in contrast.layers]
    log_q = torch.stack(early).log_softmax(-1)  # (K, T, V)
    log_m = ((log_p.exp() + log_q.exp()) / 2).log()
    divergence = (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1)
    furthest = log_q[divergence.argmax(0), torch.arange(len(ids))]
    floor = log_p.amax(-1, keepdim=True) + math.log(RELATIVE_TOP)
    return (log_p - furthest).masked_fill(log_p < floor, -math.inf)


def sampled(
    session: Session, engine: Engine, reference: Any, prompt: list[int], told: dict
) -> None:
    """Many first tokens within top_p follow their probabilities, and longer answers stay within."""
    first = [
        SamplingParams(1, TEMPERATURE, TOP_P, seed=seed, ignore_eos=True) for seed in range(DRAWS)
    ]
    ((*draws,),) = engine.generate([prompt], [first], 1)
    expected = nucleus(defined_scores(reference, Greedy(), prompt)[-1])
    counts = Counter(completion.ids[0] for completion in draws)
    outside = sum(count for token, count in counts.items() if expected[token] == 0)
    longer = [
        SamplingParams(NEW_TOKENS, TEMPERATURE, TOP_P, seed=s, ignore_eos=True) for s in (1, 2)
    ]
    ((*long_answers,),) = engine.generate([prompt], [longer], 1)
    outside += sum(tokens_outside(reference, prompt, each) for each in long_answers)
    away = deviations(counts, expected)
    session.tell(
        "answers",
        **told,
        how="sampled",
        draws=DRAWS,
        outside_top_p=outside,
        chi_square_deviations=away,
        # A token on the border of top_p may fall on either side by rounding.
        ok=outside <= 1 and away <= CHI_SQUARE,
    )


def nucleus(log_p: Tensor) -> Tensor:
    """(V,) probabilities at the temperature of the tokens within top_p, others 0."""
    probabilities = (log_p / TEMPERATURE).softmax(-1)
    best, ids = probabilities.sort(descending=True)
    kept = ids[best.cumsum(-1) - best < TOP_P]
    within = torch.zeros_like(probabilities)
    within[kept] = probabilities[kept]
    return within / within.sum()


def tokens_outside(reference: Any, prompt: list[int], completion: Completion) -> int:
    scores = defined_scores(reference, Greedy(), prompt + completion.ids[:-1])[len(prompt) - 1 :]
    pairs = zip(scores, completion.ids, strict=True)
    return sum(float(nucleus(row)[token]) == 0 for row, token in pairs)


def deviations(counts: Counter, expected: Tensor) -> float:
    """Pearson's chi-square of draws, in standard deviations from its mean; rare tokens together."""
    total = counts.total()
    frequent = [token for token, p in enumerate(expected.tolist()) if p * total >= 5]
    cells = [(counts[token], float(expected[token]) * total) for token in frequent]
    rest = total - sum(seen for seen, _ in cells), total - sum(wanted for _, wanted in cells)
    if rest[1] >= 5:
        cells.append(rest)
    freedom = max(1, len(cells) - 1)
    square = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    return (square - freedom) / math.sqrt(2 * freedom)
