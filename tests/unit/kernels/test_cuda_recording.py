"""In which order a step is recorded as a CUDA graph, by stand-ins of torch.cuda."""

import contextlib

import pytest
import torch

from effchal.kernels.step_graphs import CudaRecording


class Card:
    """Writes down what is asked of it. Streams are names."""

    def __init__(self, fails=None):
        self.done, self.stream, self.mode, self._fails = [], "own", 0, fails

    def work(self):
        self.done.append(f"work on {self.stream}, {self.mode}")
        if self._fails == len(self.done):
            raise RuntimeError("not while it is recorded")
        return torch.ones(1)

    @contextlib.contextmanager
    def on(self, stream):
        before, self.stream = self.stream, str(stream)
        try:
            yield
        finally:
            self.stream = before

    @contextlib.contextmanager
    def graph(self, graph, pool, capture_error_mode):
        """As torch's: if the work fails, the end raises, and the stream stays."""
        assert capture_error_mode == "thread_local"
        self.stream = "capture"
        self.done.append(f"begin in {pool}")
        yield
        self.stream = "own"

    def set(self, name, value):
        setattr(self, name, value)


class Stream:
    def __str__(self):
        return "side"

    def wait_stream(self, other):
        pass


class Own(str):
    def wait_stream(self, other):
        pass


class Graph:
    def pool(self):
        return "its pool"


def record(monkeypatch, card, beside=None):
    for name, function in {
        "current_stream": lambda: Own(card.stream),
        "Stream": Stream,
        "stream": card.on,
        "graph": card.graph,
        "CUDAGraph": Graph,
        "set_stream": lambda stream: card.set("stream", str(stream)),
        "get_sync_debug_mode": lambda: card.mode,
        "set_sync_debug_mode": lambda mode: card.set("mode", mode),
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    return CudaRecording(card.work, beside)


WARM = ["work on side, 0", "work on side, error"]


def test_a_step_runs_twice_before_and_the_second_time_no_wait_is_allowed(monkeypatch):
    card = Card()
    first = record(monkeypatch, card)
    assert card.done == [*WARM, "begin in None", "work on capture, 0"]
    record(monkeypatch, card, first)
    assert card.done[-2] == "begin in its pool"
    assert (card.stream, card.mode) == ("own", 0)


@pytest.mark.parametrize("fails", [1, 2, 4])
def test_after_an_error_stream_and_mode_are_as_before(fails, monkeypatch):
    card = Card(fails)
    with pytest.raises(RuntimeError, match="not while"):
        record(monkeypatch, card)
    assert (card.stream, card.mode) == ("own", 0)
    assert len(card.done) == fails
