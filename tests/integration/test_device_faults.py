"""A GPU that lacks memory goes on, and one that is lost ends the engine."""

import time
import weakref

import pytest
import torch
from support.batches import GREEDY, check_same, ids
from support.http_client import post

from effchal.decoding.sampling import SamplingParams
from effchal.model.faults import is_device_lost, is_out_of_memory
from effchal.serving.app import make_app
from effchal.serving.faults import DeviceLost
from effchal.serving.queued import QueuedPrompt
from effchal.serving.service import Service

CPU = torch.device("cpu")
ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"


class Activations:
    """Stands for the tensors of a step."""


def test_what_a_failed_step_held_is_free_before_the_rows_are_tried_alone(
    start, tiny_engine, monkeypatch
):
    scheduler, extend = start(), tiny_engine.model.extend
    held, alive, emptied = [], [], []
    monkeypatch.setattr("effchal.model.faults.release_memory", lambda: emptied.append(True))

    def short_of_memory(new, *rest):
        if len(new[0].ids) > 1:
            activations = Activations()
            held.append(weakref.ref(activations))
            try:
                raise KeyError("the error that is being handled holds frames, too")
            except KeyError:
                raise torch.OutOfMemoryError("injected")  # noqa: B904
        if held:
            alive.append(any(each() is not None for each in held))
            assert emptied
        return extend(new, *rest)

    long = SamplingParams(max_new_tokens=40, ignore_eos=True)
    expected = [tiny_engine.complete(ids(6, seed=i), long) for i in range(2)]
    monkeypatch.setattr(tiny_engine.model, "extend", short_of_memory)
    prompts = [QueuedPrompt(ids(6, seed=i), [long]) for i in range(2)]
    scheduler.submit(prompts)
    for prompt, wanted in zip(prompts, expected, strict=True):
        assert prompt.finished.wait(60)
        check_same(*prompt.completions, wanted)
    assert alive
    assert not any(alive)


def failing(engine, monkeypatch, message):
    """Let the engine fail with a message where id 7 goes through it."""
    extend = engine.model.extend

    def fail(new, *rest):
        if any((each.ids == 7).any() for each in new):
            raise RuntimeError(message)
        return extend(new, *rest)

    monkeypatch.setattr(engine.model, "extend", fail)


def test_a_lost_device_ends_the_engine_and_ready_says_so(serving_cfg, tiny_engine, monkeypatch):
    service, ended = Service(serving_cfg, "tiny"), []
    service.set_ready(tiny_engine, lambda: ended.append(True))
    scheduler, client = service.loaded().scheduler, make_app(service).test_client()
    assert client.get("/ready").status_code == 200
    failing(tiny_engine, monkeypatch, ASSERT)
    waiting = [QueuedPrompt([5, 7], [GREEDY]), QueuedPrompt(ids(5), [GREEDY])]
    scheduler.submit(waiting)
    for prompt in waiting:
        assert prompt.finished.wait(60)
        assert isinstance(prompt.error, (DeviceLost, RuntimeError))
    end = time.monotonic() + 10
    while scheduler.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert ended == [True]
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "restart the server" in answer.text
    post(client, "/process", {"prompt": "x"}, 503)


def test_an_error_that_passes_ends_nothing(service, tiny_engine, monkeypatch):
    failing(tiny_engine, monkeypatch, "CUDA error: out of memory")
    client = make_app(service).test_client()
    post(client, "/v1/completions", {"prompt": [5, 7], "max_tokens": 1}, 500)
    assert client.get("/ready").status_code == 200
    post(client, "/v1/completions", {"prompt": [5, 6], "max_tokens": 1})


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True, False),
        (RuntimeError(ASSERT), False, True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: unspecified launch failure"), False, True),
        (RuntimeError("The size of tensor a must match"), False, False),
        (ValueError("device-side assert"), False, False),
    ],
)
def test_which_errors_pass_and_which_stay(error, memory, lost):
    assert is_out_of_memory(error) == memory
    assert is_device_lost(error, CPU) == lost


@pytest.mark.parametrize(("answers", "lost"), [(True, False), (False, True)])
def test_a_gpu_is_asked_whether_it_still_answers(answers, lost, monkeypatch):
    monkeypatch.setattr("effchal.model.faults._answers", lambda device: answers)
    assert is_device_lost(ValueError("anything"), torch.device("cuda:0")) == lost
    assert not is_device_lost(ValueError("anything"), CPU)
