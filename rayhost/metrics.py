"""Prometheus metrics of one front. A leaf; read by `GET /metrics`, documented in docs/metrics.md.

Labels are bounded: models come from the profile, every other label has words of ours, never a
client's. What a worker or the kernel counts is read at scrape time and costs nothing in between.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from rayhost.scrape import (
    CpuReading,
    FrontCollector,
    FrontReading,
    MemoryReading,
    WorkerCollector,
    WorkerReading,
)

__all__ = ["CpuReading", "FrontReading", "MemoryReading", "Metrics", "WorkerReading"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_GAP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0)

_NO_ERRORS = ("stop", "length", "cancelled")  # outcomes of requests


class Metrics:
    """The registry and what is counted as it happens."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter(
            "requests", "Requests of a model by how they ended: a finish reason or an error code.",
            "model", "outcome",
        )  # fmt: skip
        self._tokens = self._counter(
            "tokens", "Tokens of requests that ended: prompt, generated, or cached (an answer's "
            "tokens that nothing was computed for).", "model", "kind",
        )  # fmt: skip
        self._refusals = self._counter(
            "refusals", "Requests turned away before they became a run, by error code; without a "
            "model where none was asked for yet, and for `internal_error`, a mistake of the host.",
            "model", "reason",
        )  # fmt: skip
        self._degradations = self._counter(
            "degradations", "Requests served with less than they asked for, by what was cut.",
            "model", "reason",
        )  # fmt: skip
        self._cache = self._counter(
            "cache_lookups", "Requests by what the result cache did: hit, miss, joined (an "
            "identical request in flight), bypass.", "model", "outcome",
        )  # fmt: skip
        self._restarts = self._counter(
            "worker_restarts", "Workers lost or replaced, by cause.", "model", "cause"
        )
        self._connections = self._counter(
            "connections_closed", "Connections that the server ended, by reason: full, too slow, "
            "malformed.", "reason",
        )  # fmt: skip
        # Those of a cached answer. `labels` costs more than counting does, and there are few.
        self._requests_of = functools.cache(self._requests.labels)
        self._tokens_of = functools.cache(self._tokens.labels)
        self._cache_of = functools.cache(self._cache.labels)
        self._queue = self._histogram("queue", "From arrival to the first step.")
        self._first = self._histogram("time_to_first_token", "From arrival to the first token.")
        self._gap = self._histogram(
            "inter_token", "Between two tokens of a request, as the front gets them.", _GAP_SECONDS
        )
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
        self._requests_of(model, outcome).inc()
        self._tokens.labels(model, "prompt").inc(prompt_tokens)
        self._tokens.labels(model, "generated").inc(generated_tokens)
        for histogram, at_ns in (
            (self._queue, started_ns),
            (self._first, first_token_ns),
            (self._total, ended_ns),
        ):
            if at_ns:
                histogram.labels(model).observe((at_ns - arrived_ns) / 1e9)

    def answered_from_cache(self, model: str, outcome: str, tokens: int) -> None:
        """Count a request whose answer, of so many tokens, was not computed for it."""
        self._requests_of(model, outcome).inc()
        self._tokens_of(model, "cached").inc(tokens)

    def gap(self, model: str, gap_ns: int, tokens: int) -> None:
        """Count the time between two steps of a request, of which the second had `tokens`."""
        self._gap.labels(model).observe(gap_ns / tokens / 1e9)

    def refused(self, model: str, outcome: str) -> None:
        """Count a request that was turned away before it became a run.

        At the door, without a model, it is no request of any: those that pass there and need none
        are not counted either.
        """
        if model:
            self._requests_of(model, outcome).inc()
        self._refusals.labels(model, outcome).inc()

    def degraded(self, model: str, reason: str) -> None:
        """Count a request that got less than it asked for."""
        self._degradations.labels(model, reason).inc()

    def cache(self, model: str, outcome: str) -> None:
        """Count what the result cache did for a request: hit, miss, joined or bypass."""
        self._cache_of(model, outcome).inc()

    def cache_outcomes(self) -> dict[str, int]:
        """Return how many requests of all models met the result cache in which way."""
        return dict(_sums(self._cache, "outcome"))

    def unanswered(self) -> dict[str, int]:
        """Return how many requests, of any model or of none, got an error instead, by its code."""
        found = _sums(self._requests, "outcome")
        for word in _NO_ERRORS:
            del found[word]
        return dict(found + _sums(self._refusals, "reason", model=""))

    def restarted(self, model: str, cause: str) -> None:
        """Count a worker that was lost or replaced."""
        self._restarts.labels(model, cause).inc()

    def connection_closed(self, reason: str) -> None:
        """Count a connection that the server ended because of what its client did."""
        self._connections.labels(reason).inc()

    def watch(
        self,
        workers: Callable[[], Iterable[WorkerReading]],
        front: Callable[[], FrontReading] | None = None,
    ) -> None:
        """Show at every scrape what these return."""
        self._registry.register(WorkerCollector(workers))
        if front is not None:
            self._registry.register(FrontCollector(front))

    def families(self) -> Iterator[Metric]:
        """Yield what a scrape shows of rayhost, without the process's own figures."""
        return (one for one in self._registry.collect() if one.name.startswith("rayhost_"))

    def render(self) -> bytes:
        """Return the registry in Prometheus' text format."""
        return generate_latest(self._registry)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return the registry in the format an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rayhost_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(
            f"rayhost_{name}_seconds", text, ["model"], buckets=buckets, registry=self._registry
        )


def _sums(counter: Counter, by: str, **only: str) -> collections.Counter[str]:
    """Return what was counted for each value of the label `by`, where other labels are `only`."""
    found: collections.Counter[str] = collections.Counter()
    for sample in next(iter(counter.collect())).samples:
        if sample.name.endswith("_total") and only.items() <= sample.labels.items():
            found[sample.labels[by]] += int(sample.value)
    return found
