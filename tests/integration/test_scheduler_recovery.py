"""A fault while a prompt is begun, read or stepped fails this prompt alone."""

import time

import pytest
from support.batches import GREEDY, VARIANTS, answers, check_same, ids

from effchal.decoding import choices
from effchal.decoding.kv_cache import RowCache
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Sequence
from effchal.serving.queued import QueuedPrompt

LONG = [SamplingParams(max_new_tokens=30)]
SAMPLES = [SamplingParams(max_new_tokens=20, temperature=1.5, seed=seed) for seed in range(3)]
POISON = SamplingParams(max_new_tokens=12, alternatives=7)  # known by this number
NEIGHBOURS = [(ids(4, seed=1), LONG), (ids(9, seed=2), SAMPLES), (ids(30, seed=3), [VARIANTS[1]])]


class OutOfMemory(RuntimeError):
    pass


def raising(original, when, after=False):
    """`original`, which raises before or after its work whenever `when(*arguments)` says so."""

    def call(*arguments, **names):
        faulty = when(*arguments)
        if faulty and not after:
            raise OutOfMemory("injected")
        result = original(*arguments, **names)
        if faulty:
            raise OutOfMemory("injected")
        return result

    return call


@pytest.fixture(scope="module")
def expected(tiny_engine):
    """The neighbours' answers alone."""
    pairs = [(prompt, each) for prompt, variants in NEIGHBOURS for each in variants]
    found = iter([tiny_engine.complete(*pair) for pair in pairs])
    return [[next(found) for _ in variants] for _, variants in NEIGHBOURS]


def beside(scheduler, engine, poisoned, expected):
    """Run one more prompt beside the neighbours, which must answer as alone; it comes back."""
    running = [QueuedPrompt(prompt, variants) for prompt, variants in NEIGHBOURS]
    scheduler.submit(running[:2])
    while not engine.rows and not running[1].finished.is_set():
        time.sleep(0.001)
    scheduler.submit([poisoned])
    scheduler.submit(running[2:])
    for prompt in (*running, poisoned):
        assert prompt.finished.wait(60)
    for prompt, completions in zip(running, expected, strict=True):
        assert prompt.error is None
        for found, wanted in zip(prompt.completions, completions, strict=True):
            check_same(found, wanted)
    return poisoned


def check_goes_on(scheduler, engine, expected):
    """The next prompts are answered as ever, and nothing is left of the earlier ones."""
    again = [QueuedPrompt(prompt, variants) for prompt, variants in NEIGHBOURS]
    for found, wanted in zip(answers(scheduler, again), expected, strict=True):
        for mine, theirs in zip(found, wanted, strict=True):
            check_same(mine, theirs)
    assert not engine.rows
    assert not engine.cache.lengths


def is_poisoned(sequences):
    return any(each.params.alternatives == POISON.alternatives for each in sequences)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("method", ["model.extend", "advance"])
def test_what_fails_for_all_rows_together_succeeds_for_each_alone(
    method, after, start, tiny_engine, expected, monkeypatch
):
    wanted = tiny_engine.complete(ids(20), GREEDY)
    owner = tiny_engine.model if method == "model.extend" else tiny_engine
    name = method.rpartition(".")[2]

    def many(what, *_):
        return len(what) > 1 or (owner is tiny_engine.model and len(what[0].ids) > 1)

    scheduler = start()
    monkeypatch.setattr(owner, name, raising(getattr(owner, name), many, after))
    found = beside(scheduler, tiny_engine, QueuedPrompt(ids(20), [GREEDY]), expected)
    check_same(*found.completions, wanted)
    monkeypatch.undo()
    check_goes_on(scheduler, tiny_engine, expected)


@pytest.mark.parametrize("few", [0, 128])  # read by itself, or in the step of the rows
@pytest.mark.parametrize("after", [False, True])
def test_a_prompt_that_cannot_be_read_fails_alone(
    few, after, start, tiny_engine, expected, monkeypatch
):
    monkeypatch.setattr(tiny_engine.model._fused, "max_tokens", few)

    def holds_257(new, *_):
        return any((each.ids == 257).any() for each in new)

    scheduler = start(prefill_tokens=16)
    extend = raising(tiny_engine.model.extend, holds_257, after)
    monkeypatch.setattr(tiny_engine.model, "extend", extend)
    bad = QueuedPrompt([*ids(40), 257, *ids(3)], [GREEDY, SAMPLES[0]])
    assert isinstance(beside(scheduler, tiny_engine, bad, expected).error, OutOfMemory)
    monkeypatch.undo()
    check_goes_on(scheduler, tiny_engine, expected)


@pytest.mark.parametrize("after", [False, True])
def test_a_row_that_cannot_be_stepped_fails_alone(after, start, tiny_engine, expected, monkeypatch):
    def poisoned(_, sequences, *__):
        return is_poisoned(sequences) and len(sequences[0].ids) >= 3

    scheduler = start()
    monkeypatch.setattr(choices, "choose", raising(choices.choose, poisoned, after))
    bad = QueuedPrompt(ids(20), [POISON])
    assert isinstance(beside(scheduler, tiny_engine, bad, expected).error, OutOfMemory)
    monkeypatch.undo()
    check_goes_on(scheduler, tiny_engine, expected)


@pytest.mark.parametrize("after", [False, True])
def test_an_answer_whose_token_cannot_be_added_fails_alone(
    after, start, tiny_engine, expected, monkeypatch
):
    calls = []

    def poisoned(sequence, *_):
        calls.append(sequence.params)
        return is_poisoned([sequence]) and len(sequence.ids) >= 3

    scheduler = start()
    monkeypatch.setattr(Sequence, "add", raising(Sequence.add, poisoned, after))
    same_contrast = QueuedPrompt(ids(20), [POISON])
    assert isinstance(beside(scheduler, tiny_engine, same_contrast, expected).error, OutOfMemory)
    assert set(calls) > {POISON}
    monkeypatch.undo()
    check_goes_on(scheduler, tiny_engine, expected)


@pytest.mark.parametrize("few", [0, 128])
@pytest.mark.parametrize("name", ["add_row", "copy_row"])
@pytest.mark.parametrize("after", [False, True])
def test_a_prompt_that_cannot_get_a_row_fails_alone(
    few, name, after, start, tiny_engine, expected, monkeypatch
):
    monkeypatch.setattr(tiny_engine.model._fused, "max_tokens", few)

    def fourth(cache, *_):
        return cache is tiny_engine.cache and len(cache.lengths) == 4

    scheduler = start()
    monkeypatch.setattr(RowCache, name, raising(getattr(RowCache, name), fourth, after))
    running = [QueuedPrompt(ids(5, seed=seed), LONG) for seed in range(5)]
    scheduler.submit(running)
    assert all(prompt.finished.wait(60) for prompt in running)
    outcomes = {type(prompt.error) for prompt in running}
    assert outcomes == {type(None), OutOfMemory}
    monkeypatch.undo()
    check_goes_on(scheduler, tiny_engine, expected)


def test_a_prompt_without_memory_for_its_row_fails_alone(start, tiny_engine, expected, monkeypatch):
    allocate = RowCache._allocate

    def third_layer(cache, like, rows, tokens):
        return cache is tiny_engine.cache and tokens > 1000 and next(layer) == 3

    layer = iter(range(1, 1000))
    scheduler = start()
    monkeypatch.setattr(RowCache, "_allocate", raising(allocate, third_layer))
    huge = QueuedPrompt(ids(20), [SamplingParams(max_new_tokens=2000)])
    assert isinstance(beside(scheduler, tiny_engine, huge, expected).error, OutOfMemory)
    assert tiny_engine.cache.capacity[1] < 1000
    monkeypatch.undo()
    check_goes_on(scheduler, tiny_engine, expected)


def test_a_layer_that_had_no_memory_once_gets_it_with_the_next_try(
    start, tiny_engine, expected, monkeypatch
):
    wanted, parts = tiny_engine.complete(ids(20), GREEDY), iter(range(1, 1000))
    scheduler = start()
    tiny_engine.clear()  # no layer of this cache has memory yet

    def second(cache, *_):  # the values, whose keys have it by then
        return cache is tiny_engine.cache and next(parts) == 2

    monkeypatch.setattr(RowCache, "_allocate", raising(RowCache._allocate, second))
    ((found,),) = answers(scheduler, [QueuedPrompt(ids(20), [GREEDY])])
    assert next(parts) > 2
    check_same(found, wanted)
    check_goes_on(scheduler, tiny_engine, expected)


def test_a_prompt_that_cannot_be_begun_fails_alone(start, tiny_engine, expected, monkeypatch):
    scheduler = start()
    begin = raising(tiny_engine.begin, lambda _, variants, adapter: variants == [POISON])
    monkeypatch.setattr(tiny_engine, "begin", begin)
    bad = QueuedPrompt(ids(20), [POISON])
    assert isinstance(beside(scheduler, tiny_engine, bad, expected).error, OutOfMemory)
    check_goes_on(scheduler, tiny_engine, expected)


def test_a_prefix_that_cannot_be_kept_costs_no_answer(start, tiny_engine, expected, monkeypatch):
    wanted = tiny_engine.complete(ids(40), GREEDY)
    scheduler = start()
    monkeypatch.setattr(tiny_engine, "keep_prefix", raising(tiny_engine.keep_prefix, lambda _: 1))
    found = beside(scheduler, tiny_engine, QueuedPrompt(ids(40), [GREEDY]), expected)
    check_same(*found.completions, wanted)


def test_a_fault_that_repeats_is_logged_with_one_traceback(start, tiny_engine, monkeypatch, caplog):
    scheduler = start()
    monkeypatch.setattr(tiny_engine, "begin", raising(tiny_engine.begin, lambda *_: True))
    for seed in range(3):
        prompt = QueuedPrompt(ids(5, seed=seed), [GREEDY])
        scheduler.submit([prompt])
        assert prompt.finished.wait(60)
    assert caplog.text.count("the engine failed") == 3
    assert caplog.text.count("Traceback") == 1


def test_prompts_of_a_step_that_fails_are_read_again_one_by_one(start, tiny_engine, monkeypatch):
    prompts = [ids(5 + i, seed=i) for i in range(4)]
    answers_alone = [tiny_engine.complete(prompt, GREEDY) for prompt in prompts]
    extend, bad = tiny_engine.model.extend, prompts[2]

    def is_there(chunks, *_):
        return any(chunk.ids[0].tolist() == bad for chunk in chunks)

    monkeypatch.setattr(tiny_engine.model, "extend", raising(extend, is_there))
    queued = [QueuedPrompt(prompt, [GREEDY]) for prompt in prompts]
    start(prefix_gib=0).submit(queued)
    assert all(each.finished.wait(60) for each in queued)
    assert isinstance(queued[2].error, OutOfMemory)
    for number in (0, 1, 3):
        check_same(*queued[number].completions, answers_alone[number])
