"""The table of recorded steps: what is recorded, kept, dropped and refused."""

import logging
from dataclasses import replace

import pytest
import torch
from support.recorded_steps import Forbidden, Freed, HostRecording, small_graphs

from effchal.decoding.engine import Engine
from effchal.decoding.fused_steps import is_step_of_all_rows
from effchal.decoding.kv_cache import RowCache
from effchal.decoding.taps import NewTokens
from effchal.kernels import step_graphs
from effchal.kernels.step_graphs import StepGraphs


@pytest.fixture(autouse=True)
def graphs_soon(monkeypatch):
    small_graphs(monkeypatch)


class OneRow:
    """A cache of one row in memory that stays."""

    lengths, capacity = (3,), (1, 64)

    def addresses(self):
        return 1


def one_step(record=HostRecording, plain=10.0, work=lambda low: low * 2):
    """Graphs, a step that multiplies by way of a scratch buffer, and the buffers."""
    scratch = step_graphs.ScratchBuffers()

    def padded(ids, starts, columns):
        low = scratch.take("low", ids.float(), 4)
        low.copy_((starts + ids[:, 0]).float())
        return work(low)[None, None]

    step = step_graphs.Step(
        OneRow(),
        torch.tensor([[2]]),
        "kind",
        lambda: torch.full((1, 1, 4), plain),
        lambda rows: torch.full((rows,), 3),
        padded,
    )
    return StepGraphs(record, scratch), step, scratch


def out_of_memory(work, beside):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")


@torch.inference_mode()
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"record": out_of_memory}, "OutOfMemoryError: CUDA out of memory"),
        ({"work": lambda low: low * low.sum().item()}, "Forbidden: "),
        ({"work": lambda low: low[low > 0]}, "Forbidden: index by bools"),
        ({"plain": 11.0}, "a graph's states are 0.091 from the step's own"),
        ({"work": lambda low: low * torch.nan}, "a graph's states are "),
    ],
)
def test_a_graph_that_cannot_be_or_differs_is_the_last_one(how, told, caplog):
    graphs, step, _ = one_step(**how)
    expected = torch.full((1, 1, 4), how.get("plain", 10.0))
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            assert torch.equal(graphs.states(step), expected)
    assert [told in each for each in caplog.messages] == [True]
    assert StepGraphs.failed
    assert not graphs._tables
    made = HostRecording.made
    again, step, _ = one_step()  # of another engine
    for _ in range(6):
        again.states(step)
    assert HostRecording.made == made


@torch.inference_mode()
def test_a_scratch_buffer_that_grew_stays_where_a_graph_writes(monkeypatch):
    def run():
        graphs, step, scratch = one_step()
        for _ in range(3):
            graphs.states(step)
        scratch.take("low", torch.ones(1), 500)  # for something larger
        return graphs.states(step)

    assert torch.equal(run(), torch.full((1, 1, 4), 10.0))
    assert HostRecording.replayed == 3
    monkeypatch.setattr(step_graphs.ScratchBuffers, "buffers", lambda self: [])
    with pytest.raises(Freed):
        run()


@torch.inference_mode()
def test_states_that_are_not_finite_are_no_reason_against_graphs():
    graphs, step, _ = one_step()
    broken = replace(step, plain=lambda: torch.full((1, 1, 4), torch.nan))
    for _ in range(4):
        assert graphs.states(broken).isnan().all()
    assert HostRecording.made == 0
    graphs.states(step)
    assert HostRecording.made == 1
    assert not StepGraphs.failed


@torch.inference_mode()
def test_of_many_graphs_the_longest_unused_goes(monkeypatch):
    monkeypatch.setattr(step_graphs, "MOST", 2)
    graphs, step, _ = one_step()
    for kind in ("a", "b", "a", "c", "a", "c"):
        for _ in range(2):
            graphs.states(replace(step, kind=kind))
    assert [key[-1] for key in graphs._tables[step.cache].graphs] == ["a", "c"]
    graphs.states(replace(step, kind="b"))  # seen once since it went
    assert HostRecording.made == 3


@torch.inference_mode()
def test_what_a_graph_returned_stays_when_it_runs_again():
    graphs, step, _ = one_step()
    for _ in range(2):
        graphs.states(step)
    first = graphs.states(step)
    second = graphs.states(replace(step, ids=torch.tensor([[7]])))
    assert (first.tolist(), second.tolist()) == ([[[10.0] * 4]], [[[20.0] * 4]])


def test_sizes_are_rounded_up_within_the_memory_that_is_there():
    def sizes(lengths, capacity, rows=None):
        cache = RowCache()
        cache.lengths, (cache._rows, cache._tokens) = list(lengths), capacity
        ids = torch.zeros(rows or len(lengths), 1)
        return step_graphs.sizes_of(step_graphs.Step(cache, ids, 0, None, None, None))

    assert sizes([5], (4, 64)) == (1, 16)
    assert sizes([5, 15, 3], (4, 64)) == (4, 16)
    assert sizes([5, 16, 3], (3, 64)) == (3, 32)
    assert sizes([5] * 5, (8, 20)) == (8, 16)
    assert sizes([17] * 5, (8, 20)) == (8, 20)
    assert sizes([20], (8, 20)) is None  # the cache must grow first
    assert sizes([5, 5], (1, 20)) is None
    assert sizes([5, 5], (8, 20), rows=1) is None  # some rows of several


def test_the_stand_in_raises_where_a_capture_would():
    x = torch.ones(3)
    with torch.inference_mode():
        for work in (lambda: x.sum().item() * x, lambda: x[x > 0], lambda: x.nonzero()):
            with pytest.raises(Forbidden):
                HostRecording(work, None)


def test_only_one_token_of_each_row_by_one_adapter_is_a_graphs_step():
    ids, cache = torch.zeros(2, 1), RowCache()
    new = NewTokens(cache, 0, ids)
    assert is_step_of_all_rows([new])
    assert is_step_of_all_rows([replace(new, adapters=("a", "a"))])
    for changes in ({"adapters": ("a", "")}, {"first": 1}, {"shared": 4}, {"ids": ids.view(1, 2)}):
        assert not is_step_of_all_rows([replace(new, **changes)])
    assert not is_step_of_all_rows([new, NewTokens(RowCache(), 0, ids)])


def test_without_a_recorder_nothing_is_recorded(tiny_engine):
    engine = Engine(tiny_engine.model._whole, tiny_engine.tokenizer)
    assert engine.model._graphs is None
    assert not engine.cache._zeroed
