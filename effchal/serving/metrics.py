"""What GET /metrics reports, in Prometheus' text format."""

from collections.abc import Callable, Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
UNREAD = "unread"  # in place of the path of a request that was refused before it was whole
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms of one server.

    Each server has a registry of its own, so that two in one process do not mix.

    Args:
        layer_counts: how often DoLa chose each layer; called at every scrape.
    """

    def __init__(self, layer_counts: Callable[[], list[int]] = list) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="effchal", registry=self.registry)
        histogram = partial(Histogram, namespace="effchal", registry=self.registry)
        self.requests = counter("requests", "Answered requests", ["path", "status"])
        self.request_s = histogram(
            "request_seconds", "From request to answer", ["path"], buckets=LATENCY_S
        )
        self.first_token_s = histogram(
            "first_token_seconds", "From submission to first token", buckets=LATENCY_S
        )
        step = "One decode step of every row, and the prompt chunk that went with it"
        self.step_s = histogram("decode_step_seconds", step, buckets=STEP_S)
        self.rows = histogram("batch_rows", "Rows in a decode step", buckets=ROWS)
        waiting = "Prompts that wait for the engine"
        self.waiting = Gauge("queue_depth", waiting, namespace="effchal", registry=self.registry)
        read = "Prompt tokens, read or reused from the prefix cache"
        self.prompt_tokens = counter("prompt_tokens", read, ["how"])
        self.new_tokens = counter("generated_tokens", "Generated tokens; their rate is tokens/s")
        self.registry.register(LayerCounts(layer_counts))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class LayerCounts(Collector):
    """Reads the engine's own counters, which stay on the device until someone asks."""

    def __init__(self, layer_counts: Callable[[], list[int]]) -> None:
        self._layer_counts = layer_counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "effchal_dola_layer",
            "Tokens for which DoLa chose this layer, where more than one token was plausible",
            labels=["layer"],
        )
        for layer, count in enumerate(self._layer_counts()):
            if count:
                family.add_metric([str(layer)], count)
        yield family
