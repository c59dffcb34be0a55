"""What GET /metrics tells, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One registry for each server, so that two in one process do not mix.

    Args:
        layer_counts: how often DoLa chose each layer where it had a choice of tokens; asked at every scrape.
    """

    def __init__(self, layer_counts: Callable[[], list[int]] = list) -> None:
        self.registry = CollectorRegistry()
        here = {"registry": self.registry, "namespace": "effchal"}
        self.requests = Counter("requests", "Answered requests", ["path", "status"], **here)
        self.request_s = Histogram(
            "request_seconds", "From request to answer", ["path"], buckets=LATENCY_S, **here
        )
        self.first_token_s = Histogram(
            "first_token_seconds", "From submission to first token", buckets=LATENCY_S, **here
        )
        told = "One token for every row, and what of a prompt is read beside"
        self.step_s = Histogram("decode_step_seconds", told, buckets=STEP_S, **here)
        self.rows = Histogram("batch_rows", "Rows in a decode step", buckets=ROWS, **here)
        self.waiting = Gauge("queue_depth", "Prompts that wait for the engine", **here)
        self.prompt_tokens = Counter(
            "prompt_tokens", "Prompt tokens, read or reused from a prefix", ["how"], **here
        )
        self.new_tokens = Counter(
            "generated_tokens", "Generated tokens; its rate is tokens/s", **here
        )
        self.registry.register(LayerCounts(layer_counts))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class LayerCounts(Collector):
    """Reads the engine's own counters, which stay on the device until someone asks."""

    def __init__(self, layer_counts: Callable[[], list[int]]) -> None:
        self._layer_counts = layer_counts

    def collect(self):
        family = CounterMetricFamily(
            "effchal_dola_layer",
            "Tokens that a layer was contrasted at, more than one plausible",
            labels=["layer"],
        )
        for layer, count in enumerate(self._layer_counts()):
            if count:
                family.add_metric([str(layer)], count)
        yield family
