"""How often the host waits for a GPU in a step, counted on one that is not there."""

import pytest
import torch
from count_waits import STEPS, WAYS, waits_of_steps


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

    next_ids = Engine._next_ids

    def asking(engine):
        int(engine.layer_counts[0])
        return next_ids(engine)

    monkeypatch.setattr(Engine, "_next_ids", asking)
    assert waits_of_steps(WAYS["greedy"], 2, torch.bfloat16).total() == 2 * STEPS
