"""Micro-batches are timed by the device's work, not by how fast the host queues them."""

import pytest
import torch

from effchal.training.budget import WallClock
from effchal.training.device_queue import DeviceQueue

CUDA = torch.device("cuda:0")


class Card:
    """A device that does 10 s of work for each micro-batch, which the host queues in 0.1 s."""

    def __init__(self):
        self.now_s = self.busy_until_s = 0.0
        self.waits = 0

    def queue_micro_batch(self, seconds=10.0):
        self.now_s += 0.1
        self.busy_until_s = max(self.busy_until_s, self.now_s) + seconds

    def event(self):
        card = self

        class Event:
            def record(self):
                self.done_s = card.busy_until_s

            def synchronize(self):
                card.waits += 1
                card.now_s = max(card.now_s, self.done_s)

        return Event()


@pytest.fixture
def card(monkeypatch):
    found = Card()
    monkeypatch.setattr(torch.cuda, "Event", found.event)
    return found


def micro_batches_until_cut(card, device, limit_s):
    """How many of 100 micro-batches are queued before the clock cuts the step, and its end."""
    clock = WallClock(limit_s, reserve_s=0.0, now=lambda: card.now_s)
    queue = DeviceQueue(device)
    clock.start_lap()
    for done in range(1, 101):
        card.queue_micro_batch()
        under_way = queue.end_micro_batch()
        clock.end_micro_batch()
        if clock.must_cut(under_way):
            return done, card.busy_until_s
    raise AssertionError("never cut")


def test_a_step_that_stalls_is_cut_before_the_budget_ends(card):
    done, end_s = micro_batches_until_cut(card, CUDA, limit_s=65.0)
    assert end_s <= 65.0
    assert done == 6
    assert card.waits == done - 1  # for each one but the last


def test_the_device_never_waits_for_the_host(card):
    queue = DeviceQueue(CUDA)
    for number in range(1, 6):
        card.queue_micro_batch()
        queue.end_micro_batch()
        assert card.busy_until_s == pytest.approx(0.1 + 10.0 * number)


def test_a_cpu_has_no_events(card):
    done, _ = micro_batches_until_cut(card, torch.device("cpu"), limit_s=3.05)
    assert card.waits == 0
    assert done == 30  # it takes its own 0.1 s for the work
