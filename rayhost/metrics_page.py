"""Writes docs/metrics.md from the metrics themselves: `make metrics` runs it as a program.

Pure; the page is a function of the code alone, and a test holds the checked-in one to it.
"""

import math
import sys

from prometheus_client.metrics_core import Metric

from rayhost.metrics import CpuReading, FrontReading, MemoryReading, Metrics, WorkerReading

_TOP = """\
# Metrics

`GET /metrics` answers in Prometheus' text format, or in OpenMetrics when the scraper's Accept
header asks for it. Made from the code by `make metrics`; do not edit it. The usual `process_*`
figures of the front process are there as well. Every label is bounded: models are the profile's,
all other values are words of rayhost's own. A worker's counters restart with the worker.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """Return the whole page."""
    rows = sorted(map(_row, _used().families()))
    return _TOP + "".join(rows)


def _used() -> Metrics:
    """Return metrics in which everything was counted once: only that shows its labels."""
    metrics = Metrics()
    metrics.ended(
        model="m",
        outcome="stop",
        prompt_tokens=1,
        generated_tokens=1,
        arrived_ns=1,
        started_ns=2,
        first_token_ns=3,
        ended_ns=4,
    )
    metrics.gap("m", 1, 1)
    metrics.refused("m", "queue_full")
    metrics.degraded("m", "max_tokens")
    metrics.cache("m", "hit")
    metrics.restarted("m", "killed")
    metrics.connection_closed("full")
    reading = WorkerReading(
        *("m", 0, 0, 0, 0, 0.0, 0.0),
        rss_bytes=1,
        queued_by_priority={"normal": 0},
        reused_requests={"idle": 0},
        reused_tokens={"idle": 0},
        saved_seconds={"idle": 0.0},
        steps_by_seconds={math.inf: 1},
        steps_by_tokens={math.inf: 1},
    )
    memory, cpu = MemoryReading(rungs=("caches",)), CpuReading(waiting=0.0)
    metrics.watch(lambda: [reading], lambda: FrontReading(0, 0, memory=memory, cpu=cpu))
    return metrics


def _row(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(label for label in family.samples[0].labels if label != "le")
    return f"| `{name}` | {family.type} | {labels or 'none'} | {family.documentation} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
