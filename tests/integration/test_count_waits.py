"""How often the host waits for a GPU in a step, counted on one that is not there."""

import pytest
import torch
from count_waits import STEPS, WAYS, waits_of_steps
from support.recorded_steps import Forbidden, FromTheHost

from effchal.decoding.kv_cache import RowCache
from effchal.kernels.step_graphs import SEEN, StepGraphs


@pytest.mark.parametrize("way", WAYS)
def test_the_host_waits_once_a_step(way):
    places = waits_of_steps(WAYS[way], 2, torch.bfloat16)
    assert places.total() == STEPS, places


def test_a_copy_from_memory_that_is_not_pinned_counts(monkeypatch):
    def unpinned(values, device, dtype=None):
        return torch.tensor(values, dtype=dtype).to(device)

    monkeypatch.setattr("effchal.decoding.kv_cache.upload", unpinned)
    places = waits_of_steps(WAYS["greedy"], 2, torch.bfloat16)
    assert places.total() == 2 * STEPS
    assert any("kv_cache.py: extend" in place for place in places)


def test_a_number_asked_of_the_device_counts(monkeypatch):
    from effchal.decoding.engine import Engine

    next_ids = Engine.next_ids

    def asking(engine):
        int(engine.layer_counts[0])
        return next_ids(engine)

    monkeypatch.setattr(Engine, "next_ids", asking)
    assert waits_of_steps(WAYS["greedy"], 2, torch.bfloat16).total() == 2 * STEPS


class MadeUpGraph:
    """Of a GPU that is not there: what a step asks of the host while it is recorded raises."""

    made = replayed = 0

    def __init__(self, work, beside):
        with FromTheHost():
            self.result = work()
        MadeUpGraph.made += 1

    def replay(self):
        MadeUpGraph.replayed += 1


@pytest.mark.parametrize("way", ["greedy", "dola, exit_norm", "sampled, top_p", "all of them"])
def test_with_graphs_the_host_waits_no_more_often(way, monkeypatch):
    for name in ("made", "replayed"):
        monkeypatch.setattr(MadeUpGraph, name, 0)
    monkeypatch.setattr(StepGraphs, "failed", False)
    # What is not there has neither values nor addresses.
    monkeypatch.setattr("effchal.kernels.step_graphs.distance", lambda *_: 0.0)
    monkeypatch.setattr(RowCache, "addresses", lambda cache: cache.capacity)
    places = waits_of_steps(WAYS[way], 2, torch.bfloat16, MadeUpGraph, SEEN)
    assert (MadeUpGraph.made, MadeUpGraph.replayed) == (1, 1 + STEPS)
    assert places.total() == STEPS, places


def test_an_upload_inside_a_recorded_step_raises():
    """It would be done again from memory that the host has freed."""
    from made_up_gpu import DEVICE, made_up_gpu

    from effchal.decoding.transfer import upload

    with made_up_gpu(), pytest.raises(Forbidden, match="from the host"):
        MadeUpGraph(lambda: upload([1, 2], DEVICE), None)
