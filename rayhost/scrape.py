"""What a scrape reads instead of counting: workers' status pages, the kernel. A leaf.

Used by `metrics`, which shows the readings; `cli.service` and the keepers make them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector


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
    kv_cells: int = 0  # what `kv_tokens` can grow to
    prefill_tokens: int = 0
    decode_tokens: int = 0
    pid: int | None = None
    rss_bytes: int = 0  # 0: no process
    snapshots: int = 0  # in memory
    snapshot_bytes: int = 0
    queued_by_priority: Mapping[str, int] = field(default_factory=dict)
    reused_requests: Mapping[str, int] = field(default_factory=dict)  # by where cells came from
    reused_tokens: Mapping[str, int] = field(default_factory=dict)
    saved_seconds: Mapping[str, float] = field(default_factory=dict)
    width: int = 0  # requests with a deadline that are computed together
    batch_tokens: int = 0  # computed in all steps
    # Steps by the bound that they were the first not to exceed; the last one is infinite.
    steps_by_seconds: Mapping[float, int] = field(default_factory=dict)
    steps_by_tokens: Mapping[float, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """What the governor knows of memory; `level` 0 and no `rungs` while nothing is given up."""

    limit_bytes: int = 0
    used_bytes: int = 0
    ours_bytes: int = 0
    allowed_bytes: int = 0
    needed_bytes: int = 0
    level: int = 0
    rungs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CpuReading:
    """What the kernel says of the CPUs. Counters are seconds of one CPU; None: it does not tell."""

    cores: float = 0.0
    stolen_seconds: float = 0.0
    throttled_seconds: float = 0.0
    throttled_periods: int = 0
    waiting: float | None = None


@dataclass(frozen=True, slots=True)
class FrontReading:
    """What a scrape says of the front process."""

    rss_bytes: int
    connections: int
    cache_entries: int = 0
    cache_bytes: int = 0
    memory: MemoryReading = MemoryReading()
    cpu: CpuReading = CpuReading()


_Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]
_WORKER: tuple[tuple[_Kind, str, str, str], ...] = (
    (GaugeMetricFamily, "queued", "Requests waiting in the front.", "queued"),
    (GaugeMetricFamily, "active_sequences", "Sequences in the batch.", "active"),
    (GaugeMetricFamily, "kv_tokens", "KV cells in use.", "kv_tokens"),
    (GaugeMetricFamily, "kv_cells", "KV cells there are.", "kv_cells"),
    (
        GaugeMetricFamily,
        "width",
        "Requests with a deadline that are computed together: under overload fewer than sequences.",
        "width",
    ),
    (GaugeMetricFamily, "snapshots", "KV snapshots kept in memory.", "snapshots"),
    (GaugeMetricFamily, "snapshot_bytes", "Bytes that they take.", "snapshot_bytes"),
    (CounterMetricFamily, "steps", "Engine steps.", "steps"),
    (
        CounterMetricFamily,
        "decode_seconds",
        "Of the time in steps, inside llama_decode.",
        "decode_seconds",
    ),
)
_WORKER_SPREADS = (  # and the attribute that has the sum
    ("step_seconds", "Time of an engine step.", "steps_by_seconds", "step_seconds"),
    ("batch_tokens", "Tokens computed in an engine step.", "steps_by_tokens", "batch_tokens"),
)
_WORKER_BY: tuple[tuple[_Kind, str, str, str, str], ...] = (
    (
        GaugeMetricFamily,
        "queue_depth",
        "Requests waiting in the front, by priority.",
        "priority",
        "queued_by_priority",
    ),
    (
        CounterMetricFamily,
        "reused_requests",
        "Requests that began with KV cells computed before, by where those came from.",
        "source",
        "reused_requests",
    ),
    (
        CounterMetricFamily,
        "reused_tokens",
        "Tokens that were not computed again, by where their KV cells came from.",
        "source",
        "reused_tokens",
    ),
    (
        CounterMetricFamily,
        "reuse_saved_seconds",
        "Prefill that this spared, at the speed measured last, less what the copies took.",
        "source",
        "saved_seconds",
    ),
)


class WorkerCollector(Collector):
    """Shows each worker's reading."""

    def __init__(self, read: Callable[[], Iterable[WorkerReading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Read, and yield a family for each figure."""
        readings = list(self._read())
        for kind, name, text, attribute in _WORKER:
            family = kind(f"rayhost_{name}", text, labels=["model"])
            for reading in readings:
                family.add_metric([reading.model], getattr(reading, attribute))
            yield family
        for kind, name, text, label, attribute in _WORKER_BY:
            family = kind(f"rayhost_{name}", text, labels=["model", label])
            for reading in readings:
                for value, count in getattr(reading, attribute).items():
                    family.add_metric([reading.model, value], count)
            yield family
        for name, text, attribute, total in _WORKER_SPREADS:
            spread = HistogramMetricFamily(f"rayhost_{name}", text, labels=["model"])
            for reading in readings:
                if counts := getattr(reading, attribute):
                    buckets = _cumulative(counts)
                    spread.add_metric([reading.model], buckets, getattr(reading, total))
            yield spread
        batch = CounterMetricFamily(
            "rayhost_step_tokens",
            "Tokens computed in steps, prefill or decode.",
            labels=["model", "phase"],
        )
        memory = GaugeMetricFamily(
            "rayhost_worker_rss_bytes", "Resident memory of a worker process.", labels=["model"]
        )
        for reading in readings:
            batch.add_metric([reading.model, "prefill"], reading.prefill_tokens)
            batch.add_metric([reading.model, "decode"], reading.decode_tokens)
            if reading.rss_bytes:
                memory.add_metric([reading.model], reading.rss_bytes)
        yield batch
        yield memory


def _cumulative(counts: Mapping[float, int]) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each holds those before it, too."""
    return [
        ("+Inf" if math.isinf(bound) else str(float(bound)), so_far)
        for bound, so_far in zip(counts, accumulate(counts.values()), strict=True)
    ]


_MEMORY = (
    ("memory_limit_bytes", "Memory limit that holds for this host.", "limit_bytes"),
    ("memory_used_bytes", "Used of it by all, without idle file pages.", "used_bytes"),
    ("memory_ours_bytes", "Of front and workers, without file pages.", "ours_bytes"),
    ("memory_allowed_bytes", "What front and workers may hold together.", "allowed_bytes"),
    ("memory_needed_bytes", "What they need with the sizes of now.", "needed_bytes"),
    ("degradation_level", "Level of the ladder of degradation; 0: nothing given up.", "level"),
)


_CPU: tuple[tuple[_Kind, str, str, str], ...] = (
    (GaugeMetricFamily, "cpu_cores", "CPUs that this host may use, or fewer by quota.", "cores"),
    (
        CounterMetricFamily,
        "cpu_stolen_seconds",
        "CPU time of the machine that its hypervisor gave to others, since it was booted.",
        "stolen_seconds",
    ),
    (
        CounterMetricFamily,
        "cpu_throttled_seconds",
        "CPU time for which a quota stopped this host or others of its control group.",
        "throttled_seconds",
    ),
    (
        CounterMetricFamily,
        "cpu_throttled_periods",
        "Periods, mostly of 100 ms, in which it did.",
        "throttled_periods",
    ),
)


class FrontCollector(Collector):
    """Shows the front's reading."""

    def __init__(self, read: Callable[[], FrontReading]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Read, and yield a family for each figure."""
        reading = self._read()
        for name, text, value in (
            ("front_rss_bytes", "Resident memory of the front process.", reading.rss_bytes),
            ("connections", "Open client connections.", reading.connections),
            ("cache_entries", "Answers in the result cache.", reading.cache_entries),
            ("cache_bytes", "Bytes that the result cache holds.", reading.cache_bytes),
        ):
            yield GaugeMetricFamily(f"rayhost_{name}", text, value=value)
        for name, text, attribute in _MEMORY:
            value = getattr(reading.memory, attribute)
            yield GaugeMetricFamily(f"rayhost_{name}", text, value=value)
        for kind, name, text, attribute in _CPU:
            yield kind(f"rayhost_{name}", text, value=getattr(reading.cpu, attribute))
        waiting = GaugeMetricFamily(
            "rayhost_cpu_waiting_ratio",
            "Share of the last 10 s in which something waited for a CPU (PSI): of this host's "
            "control group, under cgroup v1 of the machine; none where the kernel does not tell.",
            labels=(),
        )
        if reading.cpu.waiting is not None:
            waiting.add_metric([], reading.cpu.waiting)
        yield waiting
        rungs = GaugeMetricFamily(
            "rayhost_degraded",
            "1 for each rung of the ladder of degradation while it is in force.",
            labels=["rung"],
        )
        for rung in reading.memory.rungs:
            rungs.add_metric([rung], 1)
        yield rungs
