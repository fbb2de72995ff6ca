"""Prometheus metrics of one front. A leaf; read by `GET /metrics`.

Labels are bounded: models come from the profile, outcomes are finish reasons and error codes.
Worker figures are read from the status pages at scrape time, so they cost nothing between scrapes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class WorkerReading:
    """What a scrape says of one worker. Counters restart with the worker, as Prometheus expects."""

    model: str
    queued: int  # in the front
    active: int  # sequences in the batch
    kv_tokens: int
    steps: int
    step_seconds: float
    decode_seconds: float  # of it inside llama_decode


class Metrics:
    """The registry and what is counted as it happens."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "rayhost_requests", "Requests by how they ended.", ["model", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._tokens = Counter(
            "rayhost_tokens", "Tokens of requests that ended.", ["model", "kind"],
            registry=self._registry,
        )  # fmt: skip
        self._queue = self._histogram("queue", "From arrival to the first step.")
        self._first = self._histogram("time_to_first_token", "From arrival to the first token.")
        self._total = self._histogram("request", "From arrival to the end.")

    def ended(
        self,
        *,
        model: str,
        outcome: str,
        prompt_tokens: int,
        generated_tokens: int,
        arrived_ns: int,
        started_ns: int,
        first_token_ns: int,
        ended_ns: int,
    ) -> None:
        """Count a request that ended; a time of 0 is one that never came."""
        self._requests.labels(model, outcome).inc()
        self._tokens.labels(model, "prompt").inc(prompt_tokens)
        self._tokens.labels(model, "generated").inc(generated_tokens)
        for histogram, at_ns in (
            (self._queue, started_ns),
            (self._first, first_token_ns),
            (self._total, ended_ns),
        ):
            if at_ns:
                histogram.labels(model).observe((at_ns - arrived_ns) / 1e9)

    def refused(self, model: str, outcome: str) -> None:
        """Count a request that was turned away before it became a run."""
        self._requests.labels(model, outcome).inc()

    def watch(self, read: Callable[[], Iterable[WorkerReading]]) -> None:
        """Show at every scrape what `read` returns."""
        self._registry.register(_WorkerCollector(read))

    def render(self) -> bytes:
        """Return the registry in Prometheus' text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"rayhost_{name}_seconds", text, ["model"], buckets=_SECONDS, registry=self._registry
        )


class _WorkerCollector(Collector):
    def __init__(self, read: Callable[[], Iterable[WorkerReading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        readings = list(self._read())
        for kind, name, text, field in (
            (GaugeMetricFamily, "rayhost_queued", "Requests waiting in the front.", "queued"),
            (GaugeMetricFamily, "rayhost_active_sequences", "Sequences in the batch.", "active"),
            (GaugeMetricFamily, "rayhost_kv_tokens", "KV cells in use.", "kv_tokens"),
            (CounterMetricFamily, "rayhost_steps", "Engine steps.", "steps"),
            (CounterMetricFamily, "rayhost_step_seconds", "Time in steps.", "step_seconds"),
            (
                CounterMetricFamily,
                "rayhost_decode_seconds",
                "Of the time in steps, inside llama_decode.",
                "decode_seconds",
            ),
        ):
            family = kind(name, text, labels=["model"])
            for reading in readings:
                family.add_metric([reading.model], getattr(reading, field))
            yield family
