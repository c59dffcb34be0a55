import itertools
import time

import psutil
import pytest
import torch
from support.batches import GREEDY, WAYS, answers, check_same, ids, watched
from support.paths import needs_smollm2

from effchal.decoding.contrast import Dola
from effchal.decoding.engine import Engine
from effchal.decoding.prefix_cache import BLOCK
from effchal.decoding.sampling import SamplingParams
from effchal.serving.scheduler import Job


@pytest.mark.parametrize(
    "few", [0, 128]
)  # tokens that may go through the model beside those of other rows
def test_rows_that_come_and_go_answer_as_each_alone(few, start, tiny_engine, monkeypatch):
    monkeypatch.setattr(tiny_engine.model._fused, "max_tokens", few)
    beside = watched(tiny_engine, "step_and_prefill", monkeypatch)
    prompts = [ids(3 + 37 * i % 150, seed=i) for i in range(24)]
    ways = [[WAYS[i % len(WAYS)]] if i % 5 else [WAYS[0], WAYS[1], WAYS[3]] for i in range(24)]
    alone = [
        [tiny_engine.complete(prompt, way) for way in each]
        for prompt, each in zip(prompts, ways, strict=True)
    ]
    scheduler = start(max_rows=5, prefill_tokens=16)
    found = answers(
        scheduler, [Job(prompt, each) for prompt, each in zip(prompts, ways, strict=True)]
    )
    for completion, expected in zip(itertools.chain(*found), itertools.chain(*alone), strict=True):
        check_same(completion, expected)
    assert not tiny_engine.rows
    assert bool(beside) == bool(few)


def test_several_ways_of_one_prompt_share_its_prefill(start, tiny_engine):
    sampled = [SamplingParams(max_new_tokens=8, temperature=1.0, seed=seed) for seed in range(3)]
    alone = [tiny_engine.complete(ids(20), params) for params in sampled]
    (found,) = answers(start(), [Job(ids(20), sampled)])
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
    ways = [
        SamplingParams(max_new_tokens=10),
        SamplingParams(max_new_tokens=14, contrast=Dola((2, 8, 14))),
    ]
    alone = [engine.complete(prompt, way) for prompt in prompts for way in ways]
    scheduler = start(engine, prefill_tokens=24)
    found = answers(scheduler, [Job(prompt, [way]) for prompt in prompts for way in ways])
    for (completion,), expected in zip(found, alone, strict=True):
        check_same(completion, expected)


@pytest.mark.parametrize("together", [False, True])
def test_a_long_prompt_is_read_between_the_steps_of_others(
    together, start, tiny_engine, monkeypatch
):
    seen = []

    def watch(name):
        original = getattr(tiny_engine, name)
        monkeypatch.setattr(
            tiny_engine, name, lambda *each: (seen.append(name), original(*each))[1]
        )

    watch("step")
    watch("prefill")
    watch("step_and_prefill")
    monkeypatch.setattr(tiny_engine.model._fused, "max_tokens", 128 if together else 0)
    scheduler = start(prefill_tokens=16, prefix_gib=0)
    short = Job(ids(4), [SamplingParams(max_new_tokens=200)])
    scheduler.submit([short])
    while "step" not in seen:
        time.sleep(0.001)
    answers(scheduler, [Job(ids(160, seed=1), [SamplingParams(max_new_tokens=1)])])
    assert short.finished.wait(60)
    reads = [i for i, what in enumerate(seen) if "prefill" in what][1:]
    assert len(reads) == 10
    assert {seen[i] for i in reads} == {"step_and_prefill" if together else "prefill"}
    between = 1 if together else 2  # itself a step, or one step in between
    assert all(later - sooner == between for sooner, later in itertools.pairwise(reads))


def test_a_shared_beginning_is_read_once_and_changes_nothing(start, tiny_engine):
    shared = ids(BLOCK * 3 + 5)
    prompts = [shared + ids(40, seed=i) for i in range(1, 4)]
    alone = [tiny_engine.complete(prompt, GREEDY) for prompt in prompts]
    scheduler = start()
    for prompt, expected in zip(prompts, alone, strict=True):
        ((completion,),) = answers(scheduler, [Job(prompt, [GREEDY])])
        check_same(completion, expected)
    told = scheduler._metrics.registry.get_sample_value
    reused = 2 * len(shared)  # the last five tokens are a part of a block
    assert told("effchal_prompt_tokens_total", {"how": "reused"}) == reused
    assert told("effchal_prompt_tokens_total", {"how": "read"}) == 3 * len(prompts[0]) - reused


def test_memory_stays_within_the_bound_and_what_does_not_fit_waits(start, tiny_engine):
    scheduler = start(max_rows=8, cache_gib=1.0)
    scheduler._row_bytes = (1 << 30) / 500  # as if the bound were 500 tokens
    sizes = []
    resize = tiny_engine.cache.resize
    tiny_engine.cache.resize = lambda *size: (sizes.append(size), resize(*size))
    found = answers(scheduler, [Job(ids(20 + 30 * (i % 4), seed=i), [GREEDY]) for i in range(12)])
    assert all(len(completions) == 1 for completions in found)
    assert sizes
    assert all(rows * tokens <= 500 for rows, tokens in sizes)
    rows, tokens = tiny_engine.cache.capacity
    assert rows * tokens <= 500


def test_streams_tell_what_no_stop_can_take_back(start, tiny_engine):
    whole = tiny_engine.complete(ids(9), SamplingParams(max_new_tokens=30))
    stop = whole.text[7:10]
    params = SamplingParams(max_new_tokens=30, stops=(stop + "x", stop, "z" * 50))
    expected = tiny_engine.complete(ids(9), params)
    job = Job(ids(9), [params], streams=True)
    answers(start(), [job])
    told = []
    while (update := job.updates.get(timeout=1)) is not None:
        told += update[1]
    assert (
        "".join(token.text for token in told)
        == expected.text
        == whole.text[: whole.text.index(stop)]
    )
    assert told == expected.tokens


def test_holes_in_the_heap_are_given_back_while_serving(start, monkeypatch):
    def resident():
        return psutil.Process().memory_info().rss

    parts = [torch.ones(25_000) for _ in range(4_000)]  # 100 KB each, out of the heap
    parts = parts[::10]
    before = resident()
    monkeypatch.setattr("effchal.serving.scheduler.TRIM_EVERY_S", 0.0)
    answers(start(), [Job(ids(4), [GREEDY])])
    assert resident() < before - 200e6
    assert len(parts) == 400  # alive until here
