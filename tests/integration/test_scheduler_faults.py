"""Prompts that fail, are cancelled or find the queue full, and their neighbours."""

import dataclasses
import threading
import time

import pytest
import torch
from support.batches import GREEDY, VARIANTS, answers, check_same, ids, watched_reads

from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Sequence
from effchal.serving.queued import QueuedPrompt, QueueFull


@pytest.mark.parametrize("params", [VARIANTS[0], VARIANTS[1], VARIANTS[3]])
def test_a_prompt_that_ends_or_fails_beside_others_does_so_alone(
    params, start, tiny_engine, monkeypatch
):
    reads = watched_reads(tiny_engine, monkeypatch)
    endless, short = (
        [SamplingParams(max_new_tokens=200)],
        [dataclasses.replace(params, max_new_tokens=1)],
    )
    prompts = [ids(9, seed=i) for i in range(4)]
    alone = [tiny_engine.complete(prompt, *short) for prompt in prompts]
    expected = tiny_engine.complete(ids(4), *endless)
    extend = tiny_engine.model.extend

    def spoil_one(chunks, taps, at):
        states = extend(chunks, taps, at)
        for position, chunk in enumerate(chunks[1:], len(chunks[0].ids)):
            if chunk.ids[0].tolist() == prompts[2]:
                states[:, position] = torch.nan
        return states

    monkeypatch.setattr(tiny_engine.model, "extend", spoil_one)
    scheduler = start(prefix_gib=0)
    running = QueuedPrompt(ids(4), endless)
    scheduler.submit([running])
    while not tiny_engine.rows:
        time.sleep(0.001)
    queued = [QueuedPrompt(prompt, short) for prompt in prompts]
    scheduler.submit(queued)
    for prompt in (*queued, running):
        assert prompt.finished.wait(60)
    assert reads == [4]
    assert isinstance(queued[2].error, FloatingPointError)
    for i in (0, 1, 3):
        check_same(*queued[i].completions, alone[i])
    check_same(*running.completions, expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_no_number_fails_alone(start, tiny_engine, monkeypatch, temperature):
    logits = tiny_engine.model.lm_head.logits
    poisoned = SamplingParams(max_new_tokens=12, temperature=temperature, seed=1, stops=("never",))
    expected = tiny_engine.complete(ids(30), GREEDY)

    def spoil(states, taps):
        result = logits(states, taps)
        running = [sequence for row in tiny_engine.rows for sequence in row.sequences]
        for position, branch in enumerate(running):
            whole = len(running) == states.shape[1]
            if branch.params is poisoned and len(branch.ids) == 3 and whole:
                result.log_p[position] = float("nan")
        return result

    scheduler = start()
    monkeypatch.setattr(tiny_engine.model.lm_head, "logits", spoil)
    prompts = (ids(30), GREEDY), (ids(31), poisoned), (ids(30), GREEDY)
    queued = [QueuedPrompt(prompt_ids, [params]) for prompt_ids, params in prompts]
    scheduler.submit(queued)
    assert all(prompt.finished.wait(60) for prompt in queued)
    assert isinstance(queued[1].error, FloatingPointError)
    for prompt in (queued[0], queued[2]):
        check_same(prompt.completions[0], expected)
    monkeypatch.undo()
    ((after,),) = answers(scheduler, [QueuedPrompt(ids(30), [GREEDY])])
    check_same(after, expected)


@pytest.mark.parametrize("name", ["stable_tokens", "completion"])
def test_an_answer_that_cannot_be_reported_fails_alone(start, tiny_engine, monkeypatch, name):
    expected = tiny_engine.complete(ids(30), GREEDY)
    spoilt = dataclasses.replace(GREEDY, seed=7)
    report = getattr(Sequence, name)

    def fail(sequence):
        return 1 / 0 if sequence.params is spoilt else report(sequence)

    monkeypatch.setattr(Sequence, name, fail)
    queued = [QueuedPrompt(ids(30), [each], streams=True) for each in (GREEDY, spoilt, GREEDY)]
    scheduler = start()
    scheduler.submit(queued)
    assert all(prompt.finished.wait(60) for prompt in queued)
    assert isinstance(queued[1].error, ZeroDivisionError)
    for prompt in (queued[0], queued[2]):
        assert prompt.error is None
        check_same(prompt.completions[0], expected)
    assert not tiny_engine.rows


def test_a_cancelled_prompt_leaves_the_batch_and_the_queue(start, tiny_engine):
    scheduler = start(max_rows=1)
    long = SamplingParams(max_new_tokens=5000)
    running, waiting = QueuedPrompt(ids(5), [long]), QueuedPrompt(ids(6), [long])
    scheduler.submit([running, waiting])
    while not tiny_engine.rows:
        time.sleep(0.001)
    scheduler.cancel([running, waiting])
    assert running.finished.wait(10)
    assert waiting.finished.wait(10)
    assert not tiny_engine.rows
    ((completion,),) = answers(scheduler, [QueuedPrompt(ids(5), [GREEDY])])
    scheduler.stop()
    check_same(completion, tiny_engine.complete(ids(5), GREEDY))


def test_a_full_queue_refuses_and_a_failing_engine_fails_only_what_it_holds(
    start, tiny_engine, monkeypatch
):
    scheduler = start(max_waiting=2)
    go = threading.Event()
    begin = tiny_engine.begin
    monkeypatch.setattr(tiny_engine, "begin", lambda *each: (go.wait(30), begin(*each))[1])
    queued = [QueuedPrompt(ids(5), [GREEDY]) for _ in range(2)]
    scheduler.submit(queued[:1])
    with pytest.raises(QueueFull):
        scheduler.submit([QueuedPrompt(ids(5), [GREEDY]) for _ in range(2)])
    scheduler.submit(queued[1:])
    with pytest.raises(QueueFull):
        scheduler.submit([QueuedPrompt(ids(5), [GREEDY])])
    monkeypatch.setattr(tiny_engine.model, "extend", lambda *_: 1 / 0)
    go.set()
    assert all(prompt.finished.wait(10) for prompt in queued)
    assert all(isinstance(prompt.error, ZeroDivisionError) for prompt in queued)
    monkeypatch.undo()
    assert answers(scheduler, [QueuedPrompt(ids(5), [GREEDY])])
    assert scheduler.is_alive()


def test_a_cancelled_row_leaves_the_others_alone(start, tiny_engine):
    tiny_engine.clear()  # caches are made anew, and not made larger below
    long = SamplingParams(max_new_tokens=200)
    scheduler = start()
    sampled = [SamplingParams(max_new_tokens=200, temperature=1.0, seed=i) for i in range(2)]
    answers(scheduler, [QueuedPrompt(ids(9), sampled)])
    first, second = QueuedPrompt(ids(4), [long]), QueuedPrompt(ids(4), [long])
    scheduler.submit([first, second])
    while len(tiny_engine.rows) < 2:
        time.sleep(0.001)
    scheduler.cancel([first])
    assert second.finished.wait(60)
    assert second.error is None
    check_same(*second.completions, tiny_engine.complete(ids(4), long))
