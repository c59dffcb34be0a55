import itertools
import time

import psutil
import pytest
import torch
from support.batches import GREEDY, VARIANTS, answers, check_same, ids, watched_reads
from support.paths import needs_smollm2

from effchal.decoding.contrast import Dola
from effchal.decoding.engine import Engine
from effchal.decoding.prefix_cache import BLOCK
from effchal.decoding.sampling import SamplingParams
from effchal.serving.queued import QueuedPrompt


# Tokens of a prompt that may go through the model in the step of other rows.
@pytest.mark.integration
@pytest.mark.parametrize("few", [0, 128])
def test_rows_that_come_and_go_answer_as_each_alone(few, start, tiny_engine, monkeypatch):
    monkeypatch.setattr(tiny_engine.model._fused, "max_tokens", few)
    together = watched_reads(tiny_engine, monkeypatch)
    prompts = [ids(3 + 37 * i % 150, seed=i) for i in range(24)]
    several = [VARIANTS[0], VARIANTS[1], VARIANTS[3]]
    variants = [[VARIANTS[i % len(VARIANTS)]] if i % 5 else several for i in range(24)]
    pairs = list(zip(prompts, variants, strict=True))
    alone = [[tiny_engine.complete(prompt, params) for params in each] for prompt, each in pairs]
    scheduler = start(max_rows=5, prefill_tokens=16)
    found = answers(scheduler, [QueuedPrompt(prompt, each) for prompt, each in pairs])
    for completion, expected in zip(itertools.chain(*found), itertools.chain(*alone), strict=True):
        check_same(completion, expected)
    assert not tiny_engine.rows
    assert (max(together, default=0) > 1) == bool(few)  # several prompts in one step


def test_several_samples_of_one_prompt_share_its_prefill(start, tiny_engine):
    sampled = [SamplingParams(max_new_tokens=8, temperature=1.0, seed=seed) for seed in range(3)]
    alone = [tiny_engine.complete(ids(20), params) for params in sampled]
    (found,) = answers(start(), [QueuedPrompt(ids(20), sampled)])
    for completion, expected in zip(found, alone, strict=True):
        check_same(completion, expected)


@needs_smollm2
def test_batched_answers_of_the_real_model_equal_those_alone(smollm2, start):
    engine = Engine(*smollm2)
    texts = [
        "The capital of France is",
        "1, 2, 3,",
        "Once upon a time, in a village by the sea, there lived a",
    ]
    prompts = [engine.tokenizer(text * (1 + 5 * i)).input_ids for i, text in enumerate(texts)]
    variants = [
        SamplingParams(max_new_tokens=10),
        SamplingParams(max_new_tokens=14, contrast=Dola((2, 8, 14))),
    ]
    alone = [engine.complete(prompt, params) for prompt in prompts for params in variants]
    scheduler = start(engine, prefill_tokens=24)
    found = answers(
        scheduler, [QueuedPrompt(prompt, [params]) for prompt in prompts for params in variants]
    )
    for (completion,), expected in zip(found, alone, strict=True):
        check_same(completion, expected)


@pytest.mark.parametrize("together", [False, True])
def test_a_long_prompt_is_read_between_the_steps_of_others(
    together, start, tiny_engine, monkeypatch
):
    seen = []
    step, prefill = tiny_engine.step, tiny_engine.prefill

    def watched_step(prompts=()):
        seen.append("step with a prompt" if prompts else "step")
        step(prompts)

    monkeypatch.setattr(tiny_engine, "step", watched_step)
    monkeypatch.setattr(tiny_engine, "prefill", lambda *a: (seen.append("prompt"), prefill(*a))[1])
    monkeypatch.setattr(tiny_engine.model._fused, "max_tokens", 128 if together else 0)
    scheduler = start(prefill_tokens=16, prefix_gib=0)
    short = QueuedPrompt(ids(4), [SamplingParams(max_new_tokens=200)])
    scheduler.submit([short])
    while "step" not in seen:
        time.sleep(0.001)
    answers(scheduler, [QueuedPrompt(ids(160, seed=1), [SamplingParams(max_new_tokens=1)])])
    assert short.finished.wait(60)
    reads = [i for i, what in enumerate(seen) if "prompt" in what][1:]
    assert len(reads) == 10
    assert {seen[i] for i in reads} == {"step with a prompt" if together else "prompt"}
    between = 1 if together else 2  # itself a step, or one step in between
    assert all(later - sooner == between for sooner, later in itertools.pairwise(reads))


def test_a_shared_beginning_is_read_once_and_changes_nothing(start, tiny_engine):
    shared = ids(BLOCK * 3 + 5)
    prompts = [shared + ids(40, seed=i) for i in range(1, 4)]
    alone = [tiny_engine.complete(prompt, GREEDY) for prompt in prompts]
    scheduler = start()
    for prompt, expected in zip(prompts, alone, strict=True):
        ((completion,),) = answers(scheduler, [QueuedPrompt(prompt, [GREEDY])])
        check_same(completion, expected)
    sample = scheduler._metrics.registry.get_sample_value
    reused = 2 * len(shared)  # the last five tokens are a part of a block
    assert sample("effchal_prompt_tokens_total", {"how": "reused"}) == reused
    assert sample("effchal_prompt_tokens_total", {"how": "read"}) == 3 * len(prompts[0]) - reused


def test_prompts_that_begin_alike_wait_for_the_first_and_then_go_together(
    start, tiny_engine, monkeypatch
):
    reads, shared = watched_reads(tiny_engine, monkeypatch), ids(BLOCK * 3 + 5)
    prompts = [shared + ids(4, seed=i) for i in range(1, 6)]
    scheduler = start(prefill_tokens=120)
    running = QueuedPrompt(ids(4), [SamplingParams(max_new_tokens=200)])
    scheduler.submit([running])
    while not tiny_engine.rows:
        time.sleep(0.001)
    queued = [QueuedPrompt(prompt, [GREEDY]) for prompt in prompts]
    scheduler.submit(queued)
    assert all(each.finished.wait(60) for each in (*queued, running))
    assert reads == [1, 4]
    sample = scheduler._metrics.registry.get_sample_value
    reused = sample("effchal_prompt_tokens_total", {"how": "reused"})
    assert reused == 4 * 3 * BLOCK  # whole blocks alone are kept
    for each in queued:
        check_same(*each.completions, tiny_engine.complete(each.prompt_ids, GREEDY))


def test_a_step_reads_no_more_than_its_tokens_of_all_prompts(start, tiny_engine, monkeypatch):
    counts, step = [], tiny_engine.step

    def counted(prompts=()):
        counts.append([tokens for _, tokens in prompts])
        step(prompts)

    monkeypatch.setattr(tiny_engine, "step", counted)
    scheduler = start(prefill_tokens=16, prefix_gib=0)
    queued = [QueuedPrompt(ids(n, seed=n), [GREEDY]) for n in (6, 7, 40, 3, 5)]
    queued.insert(3, QueuedPrompt(ids(9), [SamplingParams(max_new_tokens=3, echo_from=0)]))
    scheduler.submit(queued)
    assert all(each.finished.wait(60) for each in queued)
    assert [each for each in counts if each] == [[6, 7, 3], [16], [16], [5], [3, 5]]
    for each in queued:
        check_same(*each.completions, tiny_engine.complete(each.prompt_ids, each.variants[0]))


def test_memory_stays_within_the_bound_and_what_does_not_fit_waits(start, tiny_engine):
    scheduler = start(max_rows=8, cache_gib=1.0)
    scheduler.room.row_bytes = (1 << 30) / 500  # as if the bound were 500 tokens
    sizes = []
    resize = tiny_engine.cache.resize
    tiny_engine.cache.resize = lambda *size: (sizes.append(size), resize(*size))
    found = answers(
        scheduler, [QueuedPrompt(ids(20 + 30 * (i % 4), seed=i), [GREEDY]) for i in range(12)]
    )
    assert all(len(completions) == 1 for completions in found)
    assert sizes
    assert all(rows * tokens <= 500 for rows, tokens in sizes)
    rows, tokens = tiny_engine.cache.capacity
    assert rows * tokens <= 500


def test_caches_of_prompts_that_are_read_count_for_the_bound(start, tiny_engine, monkeypatch):
    shared, step, held = ids(2 * BLOCK), tiny_engine.step, []
    prompts = [shared + ids(6, seed=i) for i in range(12)]
    scheduler = start(max_rows=16)
    scheduler.room.row_bytes = (4 << 30) / 500  # as if the bound were 500 tokens
    answers(scheduler, [QueuedPrompt([*shared, 7], [GREEDY])])  # so each has few tokens to read

    def counted(parts=()):
        rows, tokens = tiny_engine.cache.capacity
        others = [each.prefill.cache.capacity[1] for each in scheduler._prefilling[:-1]]
        held.append((len(others), rows * tokens + sum(others)))
        step(parts)

    monkeypatch.setattr(tiny_engine, "step", counted)
    found = answers(scheduler, [QueuedPrompt(prompt, [GREEDY]) for prompt in prompts])
    for (completion,), prompt in zip(found, prompts, strict=True):
        check_same(completion, tiny_engine.complete(prompt, GREEDY))
    assert max(others for others, _ in held) > 0
    assert all(tokens <= 500 for _, tokens in held)


def test_streams_send_only_what_no_stop_can_take_back(start, tiny_engine):
    whole = tiny_engine.complete(ids(9), SamplingParams(max_new_tokens=30))
    stop = whole.text[7:10]
    params = SamplingParams(max_new_tokens=30, stops=(stop + "x", stop, "z" * 50))
    expected = tiny_engine.complete(ids(9), params)
    queued = QueuedPrompt(ids(9), [params], streams=True)
    answers(start(), [queued])
    streamed = []
    while (update := queued.updates.get(timeout=1)) is not None:
        streamed += update[1]
    assert "".join(token.text for token in streamed) == expected.text
    assert expected.text == whole.text[: whole.text.index(stop)]
    assert streamed == expected.tokens


def test_holes_in_the_heap_are_given_back_while_serving(start, monkeypatch):
    def resident():
        return psutil.Process().memory_info().rss

    parts = [torch.ones(25_000) for _ in range(4_000)]  # 100 KB each, out of the heap
    parts = parts[::10]
    before = resident()
    monkeypatch.setattr("effchal.serving.scheduler.TRIM_EVERY_S", 0.0)
    answers(start(), [QueuedPrompt(ids(4), [GREEDY])])
    assert resident() < before - 200e6
    assert len(parts) == 400  # alive until here
